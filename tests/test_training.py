"""Training on tiny real models: what is learnt, what stays frozen, and that a kill costs nothing."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nas_engine.supernet import CheckpointError
from nas_engine.training import Example, train
from nas_engine.training.data import batch_indices, batch_of, tokenize
from nas_engine.training.strategies import genomes_of_batch
from nas_engine.training.trainer import TrainingSettings, answer_loss, learning_rate_at
from search_spaces import lora_rank, mlp_width
from tests.supernets import supernetwork
from tests.tiny import tiny_llama, tiny_tokenizer

EXAMPLES = [Example(f"{a} plus {b} is", f" {a + b}") for a in range(4) for b in range(4)]


def trained(**arguments):
    supernet = supernetwork(tiny_llama(), dropout=0.1)
    report = train(supernet, EXAMPLES, **{"steps": 6, "batch_size": 4, "progress": False} | arguments)
    return supernet, report


@pytest.mark.parametrize("strategy", ["uniform", "sandwich"])
def test_training_lowers_the_loss_and_leaves_the_base_frozen(strategy: str) -> None:
    model = tiny_llama()
    supernet = supernetwork(model)
    supernet.order_by_importance([batch_of(tokenize(EXAMPLES, tiny_tokenizer(), 64), 0, torch.device("cpu"))])
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not n.endswith(("lora_A", "lora_B"))}
    report = train(supernet, EXAMPLES, 40, batch_size=8, learning_rate=1e-2, strategy=strategy, progress=False)
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
    train(large, equal_lengths, 2, batch_size=8, progress=False)
    train(small, equal_lengths, 2, batch_size=4, accumulation=2, progress=False)
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
        train(supernet, EXAMPLES, 6, batch_size=4, checkpoint=tmp_path, progress=False)
    resumed, second = trained(checkpoint=tmp_path)
    assert second.resumed_at == 3
    assert second.losses == report.losses
    assert resumed.fingerprint() == expected.fingerprint()


def test_finished_training_is_not_repeated(tmp_path) -> None:
    first, _ = trained(checkpoint=tmp_path)
    again, report = trained(checkpoint=tmp_path)
    assert report.resumed_at == 6
    assert again.fingerprint() == first.fingerprint()


def test_killed_training_ends_as_the_uninterrupted_one(tmp_path) -> None:
    expected, _ = trained(steps=30)
    script = textwrap.dedent(f"""
        from tests.test_training import trained
        trained(steps=30, checkpoint={str(tmp_path)!r}, checkpoint_every=1)
    """)
    process = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": os.getcwd()})
    while not list(tmp_path.glob("*.safetensors")) and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
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
        ({"strategy": "largest"}, "'largest'; choose one of uniform, sandwich"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"warmup": 2.0}, "warmup is 2"),
        ({"max_tokens": 2}, "example 0 has .* more than the 2 allowed"),
    ],
)
def test_bad_settings_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trained(**arguments)


def test_bad_training_sets_are_refused() -> None:
    supernet = supernetwork(tiny_llama())
    with pytest.raises(ValueError, match="empty"):
        train(supernet, [], 1, progress=False)
    with pytest.raises(ValueError, match="example 1 has a completion without tokens"):
        train(supernet, [EXAMPLES[0], Example("1 plus 1 is", "")], 1, progress=False)
    with pytest.raises(ValueError, match="no adapters"):
        train(supernetwork(tiny_llama(), mlp_width((1.0, 0.5))), EXAMPLES, 1, progress=False)


def test_every_epoch_shows_every_example_once() -> None:
    seen = [i for batch in range(12) for i in batch_indices(batch, 4, 16, seed=3)]
    for epoch in range(3):
        assert sorted(seen[16 * epoch : 16 * (epoch + 1)]) == list(range(16))
    assert seen[:16] != seen[16:32]


def test_sandwich_visits_largest_and_smallest_and_uniform_covers_every_value() -> None:
    space = supernetwork(tiny_llama()).space
    sandwich = genomes_of_batch(space, "sandwich", 0, 5)
    assert np.array_equal(sandwich[0], space.largest)
    assert np.array_equal(sandwich[1], space.smallest)
    drawn = np.vstack([genomes_of_batch(space, "uniform", 0, i) for i in range(60)])
    assert all(set(drawn[:, i]) == set(range(n)) for i, n in enumerate(space.cardinalities))


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    settings = TrainingSettings(20, 1, 1.0, "uniform", 1, 0.25, 0.0, 1.0, 8, 0)
    rates = [learning_rate_at(step, settings) for step in range(20)]
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.02
