"""Training on tiny real models: what is learnt, what stays frozen, and that a kill costs nothing."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from nas_engine.compression import sparsify
from nas_engine.errors import CheckpointError, CompressionError
from nas_engine.jobs import heuristics
from nas_engine.texts.examples import batch_of, tokenize
from nas_engine.training import Example, Visits, train
from nas_engine.training.answers import answer_loss, predictions
from nas_engine.training.epochs import batch_indices
from nas_engine.training.settings import TrainingSettings
from nas_engine.training.strategies import genomes_of_batch
from nas_engine.training.trainer import _Run
from search_spaces import ModelShape, layer_skip, lora_rank, mlp_width
from tests.processes import started
from tests.supernets import DECODERS, EVERY_DIMENSION, FAMILIES, logits, supernetwork
from tests.tiny import tiny_llama, tiny_tokenizer

EXAMPLES = [Example(f"{a} plus {b} is", f" {a + b}") for a in range(4) for b in range(4)]


def trained(**arguments):
    supernet = supernetwork(tiny_llama(), dropout=0.1)
    report = train(supernet, EXAMPLES, **{"steps": 6, "batch_size": 4, "progress": False} | arguments)
    return supernet, report


@pytest.mark.parametrize("strategy", ["uniform", "sandwich", "cycle"])
def test_training_lowers_the_loss_and_leaves_the_base_frozen(strategy: str) -> None:
    model = tiny_llama()
    supernet = supernetwork(model)
    supernet.order_by_importance([batch_of(tokenize(EXAMPLES, tiny_tokenizer(), 64), 0, torch.device("cpu"))])
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not n.endswith(("lora_A", "lora_B"))}
    report = train(supernet, EXAMPLES, steps=40, batch_size=8, learning_rate=1e-2, strategy=strategy, progress=False)
    assert np.mean(report.losses[-5:]) < 0.8 * np.mean(report.losses[:5])
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    assert any(layer.lora_B.abs().sum() > 0 for layer in supernet.elastic_linears.values())


def test_channels_are_ordered_before_the_first_step() -> None:
    supernet, _ = trained(steps=1)
    assert supernet.ordered
    assert all("channels" in layer.orders for layer in supernet.layers)


def test_same_seed_gives_the_same_supernetwork_and_another_seed_another() -> None:
    first, again, other = trained(seed=1)[0], trained(seed=1)[0], trained(seed=2)[0]
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


def test_loss_is_that_of_the_plain_model_with_labels() -> None:
    model = tiny_llama()
    batch = batch_of(tokenize(EXAMPLES, tiny_tokenizer(), 64), 0, torch.device("cpu"))
    torch.testing.assert_close(answer_loss(model, batch), model(**batch).loss)
    scored = batch["labels"] != -100
    assert 0 < scored.sum() < batch["attention_mask"].sum()


def test_accumulated_step_has_the_gradient_of_the_large_batch() -> None:
    space = mlp_width((1.0,)) + lora_rank((4,))
    large, small = supernetwork(tiny_llama(), space), supernetwork(tiny_llama(), space)
    equal_lengths = [Example("1 plus 2 is", f" {i % 10}") for i in range(16)]
    # A step takes the whole set either way: which examples share a batch is drawn for each batch size anew.
    train(large, equal_lengths, steps=2, batch_size=16, progress=False)
    train(small, equal_lengths, steps=2, batch_size=8, accumulation=2, progress=False)
    for name, tensor in large.state().items():
        torch.testing.assert_close(small.state()[name], tensor, atol=1e-5, rtol=1e-3)


def test_interrupted_training_ends_as_the_uninterrupted_one(tmp_path, monkeypatch) -> None:
    expected, report = trained()
    supernet = supernetwork(tiny_llama(), dropout=0.1)
    original, calls = F.cross_entropy, iter(range(100))

    def interrupting(*args, **kwargs):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(F, "cross_entropy", interrupting)
    with pytest.raises(KeyboardInterrupt):
        train(supernet, EXAMPLES, steps=6, batch_size=4, checkpoint=tmp_path, progress=False)
    resumed, second = trained(checkpoint=tmp_path)
    assert second.resumed_at == 3
    assert second.losses == report.losses
    assert resumed.fingerprint() == expected.fingerprint()


def test_finished_training_is_not_repeated(tmp_path) -> None:
    first, _ = trained(checkpoint=tmp_path)
    again, report = trained(checkpoint=tmp_path)
    assert report.resumed_at == 6
    assert again.fingerprint() == first.fingerprint()


def train_slowly(folder: Path) -> None:
    trained(steps=30, checkpoint=folder, checkpoint_every=1)


def test_killed_training_ends_as_the_uninterrupted_one(tmp_path) -> None:
    expected, _ = trained(steps=30)
    process = started(train_slowly, tmp_path)
    while not list(tmp_path.glob("*.safetensors")) and process.is_alive():
        time.sleep(0.01)
    process.kill()
    process.join()
    resumed, report = trained(steps=30, checkpoint=tmp_path)
    assert report.resumed_at >= 1
    assert resumed.fingerprint() == expected.fingerprint()


def test_checkpoint_of_another_run_is_refused_with_the_difference(tmp_path) -> None:
    trained(checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match=r"batch_size: 4 there, 2 here"):
        trained(checkpoint=tmp_path, batch_size=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"strategy": "widest"}, "'widest'; choose one of uniform, sandwich, cycle, largest"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"warmup": 2.0}, "warmup is 2"),
        ({"distill": True}, 'distill needs strategy="sandwich"'),
        ({"max_tokens": 2}, "example 0 has .* more than the 2 allowed"),
    ],
)
def test_bad_settings_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trained(**arguments)


def test_bad_training_sets_are_refused() -> None:
    supernet = supernetwork(tiny_llama())
    with pytest.raises(ValueError, match="empty"):
        train(supernet, [], steps=1, progress=False)
    with pytest.raises(ValueError, match="example 1 has a completion without tokens"):
        train(supernet, [EXAMPLES[0], Example("1 plus 1 is", "")], steps=1, progress=False)
    with pytest.raises(ValueError, match="no adapters"):
        train(supernetwork(tiny_llama(), mlp_width((1.0, 0.5))), EXAMPLES, steps=1, progress=False)


def test_completions_end_so_that_models_learn_to_stop() -> None:
    tokenizer = tiny_tokenizer()
    plain = tokenizer("1 plus 1 is two")["input_ids"]
    example = tokenize([Example("1 plus 1 is", " two")], tokenizer, 64)[0]
    assert example.tokens == (*plain, tokenizer.eos_token_id)
    batch = batch_of([example], 1, torch.device("cpu"))
    assert batch["labels"][0, -1] == tokenizer.eos_token_id
    ended = tokenize([Example("1 plus 1 is", " two<eos>")], tokenizer, 64)[0]
    assert ended == example  # not twice
    tokenizer.eos_token = None
    assert tokenize([Example("1 plus 1 is", " two")], tokenizer, 64)[0].tokens == tuple(plain)


def test_every_epoch_shows_every_example_once() -> None:
    lengths = tuple(range(16))
    seen = [i for batch in range(12) for i in batch_indices(batch, 4, lengths, seed=3)]
    for epoch in range(3):
        assert sorted(seen[16 * epoch : 16 * (epoch + 1)]) == list(range(16))
    assert seen[:16] != seen[16:32]


@settings(deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=150), st.integers(1, 9), st.integers(0, 99))
def test_batches_of_alike_lengths_pad_less_and_miss_nothing(lengths: list[int], batch_size: int, seed: int) -> None:
    batches = [batch_indices(i, batch_size, tuple(lengths), seed) for i in range(len(lengths))]
    seen = [i for batch in batches for i in batch][: len(lengths)]
    assert sorted(seen) == list(range(len(lengths)))
    at_random = np.random.default_rng(seed).permutation(len(lengths))
    if len(lengths) >= 8 * batch_size and batch_size >= 4:
        assert padded(lengths, seen, batch_size) <= padded(lengths, at_random, batch_size)


def padded(lengths: list[int], order, batch_size: int) -> int:
    """Tokens of all full batches, padding included."""
    full = len(order) // batch_size * batch_size
    return sum(batch_size * max(lengths[i] for i in order[k : k + batch_size]) for k in range(0, full, batch_size))


def test_visits_are_the_subnetworks_that_took_turns_with_their_losses() -> None:
    supernet, report = trained(strategy="sandwich", accumulation=2)
    visits = report.visits
    assert visits.genomes.shape == (6 * 2 * 4, len(supernet.space))
    assert np.array_equal(visits.genomes[0], supernet.space.largest)
    assert np.mean(visits.losses[:8]) == pytest.approx(report.losses[0])
    table = visits.activations
    first = table[table["gene"] == supernet.space.names[0]]
    assert first["visits"].sum() == len(visits.losses)
    there = visits.frame[supernet.space.names[0]] == first["value"].iloc[0]
    assert first["loss"].iloc[0] == pytest.approx(np.array(visits.losses)[there].mean())


def test_heuristics_are_the_papers(monkeypatch) -> None:
    space = lora_rank((4, 2), ("q",)).bind(ModelShape((8, 8)))
    genomes = np.array([[0, 0], [0, 1], [1, 1], [0, 1]])
    visits = Visits(space, genomes, (3.0, 1.0, 1.5, 4.0))
    assert heuristics.most_active(visits) == space.configuration([0, 1])
    assert heuristics.lowest_loss(visits, 2) == [space.configuration([1, 1]), space.configuration([0, 1])]
    assert heuristics.median(space) == space.configuration([1, 1])
    with pytest.raises(ValueError, match="count is 0"):
        heuristics.lowest_loss(visits, 0)


def test_gradient_checkpointing_trains_the_same_supernetwork() -> None:
    plain, _ = trained(steps=3)
    saving, _ = trained(steps=3, gradient_checkpointing=True)
    for name, tensor in plain.state().items():
        torch.testing.assert_close(saving.state()[name], tensor, atol=1e-6, rtol=1e-4)
    assert not saving.model.is_gradient_checkpointing


def test_distilled_subnetworks_learn_the_largest_ones_predictions() -> None:
    supernet = supernetwork(tiny_llama())
    batch = batch_of(tokenize(EXAMPLES, tiny_tokenizer(), 64), 0, torch.device("cpu"))
    report = train(
        supernet,
        EXAMPLES,
        steps=40,
        batch_size=8,
        learning_rate=1e-2,
        strategy="sandwich",
        distill=True,
        progress=False,
    )
    assert np.mean(report.losses[-5:]) < 0.8 * np.mean(report.losses[:5])
    # One step's gradient against the formula: cross-entropy for the largest, the largest's probabilities for the rest.
    run = _Run(
        supernet,
        tokenize(EXAMPLES, tiny_tokenizer(), 64),
        TrainingSettings(steps=1, learning_rate=1e-3, strategy="sandwich", warmup=0, max_tokens=64, distill=True),
        None,
    )
    genomes = np.vstack([supernet.space.largest, supernet.space.smallest])
    supernet.model.train().zero_grad()
    run.visit_genomes(batch, genomes)
    got = [p.grad.clone() for p in supernet.adapter_parameters]
    supernet.model.zero_grad()
    supernet.activate_genome(supernet.space.largest)
    largest = predictions(supernet.model, batch)
    target = largest.logits.detach().softmax(-1)
    supernet.activate_genome(supernet.space.largest)
    (F.cross_entropy(largest.logits, largest.labels) / 2).backward()
    supernet.activate_genome(supernet.space.smallest)
    small = predictions(supernet.model, batch).logits
    (-(target * small.log_softmax(-1)).sum(-1).mean() / 2).backward()
    for gradient, parameter in zip(got, supernet.adapter_parameters, strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_half_precision_base_trains_adapters_in_full_precision() -> None:
    supernet = supernetwork(tiny_llama().to(torch.bfloat16))
    report = train(supernet, EXAMPLES, steps=40, batch_size=8, learning_rate=1e-2, progress=False)
    assert {p.dtype for p in supernet.adapter_parameters} == {torch.float32}
    assert np.mean(report.losses[-5:]) < 0.8 * np.mean(report.losses[:5])
    extracted = supernet.largest.extract()
    assert extracted.dtype == torch.bfloat16
    assert (logits(extracted) - logits(supernet.largest.model)).abs().max() < 0.2


def test_skipping_every_block_leaves_nothing_to_train_and_training_goes_on() -> None:
    supernet = supernetwork(tiny_llama(), lora_rank((4, 2)) + layer_skip())
    report = train(supernet, EXAMPLES, steps=3, batch_size=4, strategy="sandwich", progress=False)
    assert len(report.losses) == 3


@pytest.mark.parametrize("family", DECODERS)
def test_every_decoder_trains(family: str) -> None:
    supernet = supernetwork(FAMILIES[family](), EVERY_DIMENSION)
    report = train(supernet, EXAMPLES, steps=12, batch_size=16, learning_rate=1e-2, strategy="sandwich", progress=False)
    largest = [
        loss
        for loss, genome in zip(report.visits.losses, report.visits.genomes, strict=True)
        if np.array_equal(genome, supernet.space.largest)
    ]
    assert np.mean(largest[-3:]) < np.mean(largest[:3])


def test_strategies_visit_largest_and_smallest_and_uniform_covers_every_value() -> None:
    space = supernetwork(tiny_llama()).space
    sandwich = genomes_of_batch(space, "sandwich", 0, 5)
    assert np.array_equal(sandwich[0], space.largest)
    assert np.array_equal(sandwich[1], space.smallest)
    turns = [genomes_of_batch(space, "cycle", 0, batch) for batch in range(6)]
    assert all(len(genomes) == 1 for genomes in turns)
    assert all(
        np.array_equal(turns[i][0], space.largest) and np.array_equal(turns[i + 1][0], space.smallest) for i in (0, 3)
    )
    assert np.array_equal(turns[2], genomes_of_batch(space, "uniform", 0, 2))
    drawn = np.vstack([genomes_of_batch(space, "uniform", 0, i) for i in range(60)])
    assert all(set(drawn[:, i]) == set(range(n)) for i, n in enumerate(space.cardinalities))


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    run = TrainingSettings(steps=20, batch_size=1, learning_rate=1.0, warmup=0.25, max_tokens=8)
    rates = [run.learning_rate_at(step) for step in range(20)]
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.02


def test_refitted_run_does_not_go_on_with_a_checkpoint_of_plain_prefixes(tmp_path) -> None:
    trained(checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="refit: False there, True here"):
        trained(checkpoint=tmp_path, refit=True)


def test_narrower_widths_are_fitted_to_the_trained_network_once(tmp_path) -> None:
    whole, _ = trained(checkpoint=tmp_path, refit=True)
    again = supernetwork(tiny_llama(), dropout=0.1)
    passes = []
    again.layers[0].module.register_forward_pre_hook(lambda *_: passes.append(1))
    report = train(again, EXAMPLES, steps=6, batch_size=4, progress=False, checkpoint=tmp_path, refit=True)
    assert not passes
    assert report.resumed_at == 6
    assert again.fingerprint() == whole.fingerprint()


def test_run_killed_before_the_last_fit_fits_then(tmp_path) -> None:
    whole, _ = trained(refit=True)
    killed, learning = supernetwork(tiny_llama(), dropout=0.1), []

    def kill(layer, args) -> None:
        learning.append(layer.training)
        if learning[-2:] == [True, False]:  # the steps are over, and a fit looks at texts
            raise KeyboardInterrupt

    killed.layers[0].module.register_forward_pre_hook(kill)
    with pytest.raises(KeyboardInterrupt):
        train(killed, EXAMPLES, steps=6, batch_size=4, progress=False, checkpoint=tmp_path, refit=True)
    resumed, report = trained(checkpoint=tmp_path, refit=True)
    assert report.resumed_at == 6
    assert resumed.fingerprint() == whole.fingerprint()


def test_sparse_base_is_refused_before_any_step() -> None:
    model = tiny_llama()
    batch = batch_of(tokenize(EXAMPLES, tiny_tokenizer(), 64), 0, torch.device("cpu"))
    sparsify(model, [batch], 0.5)
    supernet = supernetwork(model)
    supernet.order_by_importance([batch])
    with pytest.raises(CompressionError, match="would fill the zeros of a sparse base"):
        train(supernet, EXAMPLES, steps=1, refit=True, progress=False)
