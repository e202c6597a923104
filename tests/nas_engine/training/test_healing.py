"""A chosen sub-network healed alone: what it computes, what it keeps, and that a kill changes nothing."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from nas_engine import Distillation, SuperNetwork, Teacher, heal, train
from nas_engine.compression.grid import quantize
from nas_engine.compression.quantization import quantize_model
from nas_engine.compression.sparsification import sparsify
from nas_engine.errors import ExportError
from nas_engine.supernet.elastic import ElasticLinear
from nas_engine.texts.calibration import calibration_batches
from nas_engine.texts.examples import batch_of, tokenize
from nas_engine.training import Example, Healed
from nas_engine.training.answers import predictions
from nas_engine.training.fitting import can_fit, damped_least_squares, fit_to_teacher
from nas_engine.training.remembered import Remembered
from search_spaces import attention_heads, layer_skip, lora_rank, mlp_width
from tests.supernets import DECODERS, FAMILIES, SPACE, random_adapters, smallest, supernetwork
from tests.tiny import tiny_llama, tiny_tokenizer

EXAMPLES = [Example(f"{a} + {b} =", f" {a + b}") for a in range(6) for b in range(6)]
TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
IDS = torch.arange(2, 14)[None]


def batch():
    return batch_of(tokenize(EXAMPLES[:4], tiny_tokenizer(), 64), 0, torch.device("cpu"))


def tuned(space=None, steps: int = 4, **kwargs) -> SuperNetwork:
    space = space or lora_rank((4, 2), TARGETS) + mlp_width((1.0, 0.5))
    supernet = SuperNetwork.from_pretrained(tiny_llama(), space, tiny_tokenizer(), **kwargs)
    train(supernet, EXAMPLES, steps=steps, batch_size=4, learning_rate=1e-2, strategy="largest", progress=False)
    return supernet


@torch.inference_mode()
def logits(model):
    return model(IDS).logits


def test_teacher_says_what_the_largest_said_whatever_training_and_ordering_do_afterwards() -> None:
    supernet = tuned()
    teacher, before = Teacher.of(supernet), predictions(supernet.largest.model, batch())
    named = teacher.fingerprint()
    train(supernet, EXAMPLES, steps=5, batch_size=4, learning_rate=1e-2, teacher=teacher, refit=True, progress=False)
    now = predictions(supernet.largest.model, batch())
    assert (now.logits - before.logits).abs().max() > 1e-2
    torch.testing.assert_close(teacher.predictions(batch()).logits, before.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(predictions(supernet.largest.model, batch()).logits, now.logits)
    assert teacher.fingerprint() == named
    assert Teacher.of(supernet).fingerprint() != named


def test_teacher_reads_a_batch_once_for_all_finalists_and_anew_where_channels_moved() -> None:
    supernet = tuned()
    teacher, read = Teacher.of(supernet), []
    supernet.model.base_model.register_forward_hook(lambda *_: read.append(1))
    whole = teacher.predictions(batch())
    first, again = (teacher.predictions(batch(), states=False) for _ in range(2))
    assert len(read) == 2
    for said in (first, again):
        assert torch.equal(said.logits, whole.logits)
        assert torch.equal(said.labels, whole.labels)
    supernet.order_by_importance(calibration_batches(EXAMPLES, supernet.tokenizer, 8), refit=False)
    read.clear()
    torch.testing.assert_close(teacher.predictions(batch(), states=False).logits, whole.logits, atol=1e-4, rtol=1e-4)
    assert len(read) == 1


def test_what_is_remembered_stays_within_its_bytes() -> None:
    made: list[str] = []

    def asked(remembered: Remembered, key: str) -> None:
        remembered.of(key, lambda: made.append(key) or [(torch.zeros(10), torch.zeros(10))])

    remembered = Remembered(most=3 * 80)
    for key in "abcabcdbca":
        asked(remembered, key)
    assert "".join(made) == "abcda"  # the fourth made the first forgotten, and that in its turn the second


def test_loss_is_the_formula() -> None:
    supernet = tuned()
    teacher = predictions(supernet.largest.model, batch())
    student = predictions(smallest(supernet).model, batch())
    p, q = ((said.logits / 2).softmax(-1) for said in (teacher, student))
    divergence = (p * (p / q).log()).sum(-1).mean()
    answers = -student.logits.log_softmax(-1).gather(1, student.labels[:, None]).mean()
    distance = ((student.states - teacher.states) ** 2).sum(-1) / (teacher.states**2).sum(-1)
    expected = 0.7 * answers + 0.3 * 4 * divergence + 0.1 * distance.mean()
    torch.testing.assert_close(Distillation(0.3, 2.0, 0.1).loss(student, teacher), expected)


@pytest.mark.parametrize("bad", [{"weight": 1.5}, {"temperature": 0.0}, {"hidden": -1.0}, {"weight": float("nan")}])
def test_distillation_out_of_range_is_refused(bad) -> None:
    with pytest.raises(ValueError, match="give a fraction|must be"):
        Distillation(**bad)


@pytest.mark.parametrize("adapters", ["fresh", "continued"])
@pytest.mark.parametrize("name", DECODERS)
def test_healing_begins_with_what_the_subnetwork_computes(name: str, adapters) -> None:
    supernet = random_adapters(supernetwork(FAMILIES[name](), SPACE))
    subnet = smallest(supernet)
    before = logits(subnet.extract())
    healed = Healed(subnet, adapters)
    torch.testing.assert_close(logits(healed.model), before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(healed.extract()), before, atol=1e-4, rtol=1e-4)
    assert sum(p.numel() for p in healed.extract().parameters()) == healed.parameter_count()


def streams(model, batches) -> torch.Tensor:
    """The last hidden states that are no padding."""
    return torch.cat([predictions(model, batch).states for batch in batches]).detach()


@pytest.mark.parametrize("name", [name for name in DECODERS if "gemma" not in name])
def test_fitting_brings_each_layer_nearer_to_the_teachers_stream(name: str) -> None:
    space = lora_rank((4,), TARGETS, skip_missing=True) + mlp_width((1.0, 0.5)) + layer_skip(("attention",), (1,))
    supernet = random_adapters(supernetwork(FAMILIES[name](), space))
    teacher, subnet = Teacher.of(supernet), smallest(supernet)
    examples = tokenize(EXAMPLES, tiny_tokenizer(), 64)
    batches = [batch_of(examples[i : i + 12], 0, torch.device("cpu")) for i in (0, 12, 24)]
    target = streams(supernet.largest.model, batches)
    healed = Healed(subnet)
    before = (streams(healed.model, batches) - target).norm()
    fitted = fit_to_teacher(subnet, healed.model, teacher, batches)
    assert (streams(healed.model, batches) - target).norm() < 0.8 * before
    assert len(fitted) == len(supernet.layers)
    whole = Healed(supernet.largest)
    untouched = logits(whole.model)
    fit_to_teacher(supernet.largest, whole.model, teacher, batches)  # which errs nowhere
    torch.testing.assert_close(logits(whole.model), untouched, atol=1e-3, rtol=1e-3)


def test_fit_is_the_damped_least_squares_solution() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = torch.randn(40, 8, generator=generator), torch.randn(40, 3, generator=generator)
    penalty = (0.01 * inputs.square().sum(0).mean()).sqrt()
    rows = torch.cat([inputs, penalty * torch.eye(8)]), torch.cat([outputs, torch.zeros(8, 3)])
    torch.testing.assert_close(damped_least_squares(inputs, outputs), torch.linalg.lstsq(*rows).solution)


def test_healing_fits_first_where_weights_are_free(tmp_path) -> None:
    supernet = tuned()
    teacher, subnet = Teacher.of(supernet), smallest(supernet)
    settings = {"batch_size": 4, "progress": False, "teacher": teacher}
    plain = heal(subnet, EXAMPLES, steps=1, fit_tokens=0, **settings)
    fitted = heal(subnet, EXAMPLES, steps=1, checkpoint=tmp_path, **settings)
    down = "model.layers.0.mlp.down_proj.weight"
    assert not torch.equal(plain.model.get_parameter(down), fitted.model.get_parameter(down))
    again = heal(subnet, EXAMPLES, steps=1, checkpoint=tmp_path, **settings)
    assert torch.equal(again.model.get_parameter(down), fitted.model.get_parameter(down))
    with pytest.raises(ValueError, match="fit_tokens is -1"):
        heal(subnet, EXAMPLES, steps=1, fit_tokens=-1)
    gemma = random_adapters(supernetwork(FAMILIES["gemma2"](), SPACE))  # a norm follows each block
    assert not can_fit(smallest(gemma))
    assert not can_fit(smallest(random_adapters(supernetwork(tiny_llama(), SPACE, adapter_mode="masked"))))


def test_healing_moves_the_small_model_alone_and_what_is_saved_is_what_was_healed(tmp_path) -> None:
    supernet = tuned(
        lora_rank((4,), TARGETS) + mlp_width((1.0, 0.5)) + attention_heads((1.0, 0.5)) + layer_skip(layers=[1])
    )
    teacher = Teacher.of(supernet)
    before, subnet = supernet.fingerprint(), smallest(supernet)
    unhealed = logits(subnet.extract())
    healed = heal(subnet, EXAMPLES, steps=20, teacher=teacher, batch_size=8, learning_rate=1e-2, progress=False)
    assert supernet.fingerprint() == before
    torch.testing.assert_close(logits(subnet.extract()), unhealed)
    assert sum(healed.losses[-3:]) < 0.9 * sum(healed.losses[:3])
    assert (logits(healed.model) - unhealed).abs().max() > 1e-2
    healed.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    torch.testing.assert_close(logits(loaded), logits(healed.model), atol=1e-4, rtol=1e-4)
    assert not any(isinstance(module, ElasticLinear) for module in healed.extract().modules())


@pytest.mark.parametrize("killed_at", [1, 3, 5])
def test_healing_killed_at_any_step_ends_with_the_same_weights(tmp_path, killed_at: int, monkeypatch) -> None:
    supernet = tuned()
    teacher, subnet = Teacher.of(supernet), smallest(supernet)
    settings = {"teacher": teacher, "batch_size": 4, "checkpoint_every": 2, "progress": False}
    whole = heal(subnet, EXAMPLES, steps=6, **settings)

    original, calls = F.cross_entropy, iter(range(100))  # one a step

    def killed(*args, **kwargs):
        if next(calls) == killed_at:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(F, "cross_entropy", killed)
        with pytest.raises(KeyboardInterrupt):
            heal(subnet, EXAMPLES, steps=6, checkpoint=tmp_path, **settings)
    again = heal(subnet, EXAMPLES, steps=6, checkpoint=tmp_path, **settings)
    assert again.losses == whole.losses
    for name, parameter in whole.adapters.items():
        assert torch.equal(again.adapters[name], parameter)


def test_a_part_of_the_steps_and_then_the_rest_is_all_of_them(tmp_path) -> None:
    subnet = smallest(tuned())
    settings = {"batch_size": 4, "progress": False}
    whole = heal(subnet, EXAMPLES, steps=6, **settings)
    part = heal(subnet, EXAMPLES, steps=6, until=2, checkpoint=tmp_path, **settings)
    assert part.losses == whole.losses[:2]
    rest = heal(subnet, EXAMPLES, steps=6, checkpoint=tmp_path, **settings)
    assert all(torch.equal(rest.adapters[name], p) for name, p in whole.adapters.items())


def test_sparsepeft_keeps_its_zeros() -> None:
    model = tiny_llama()
    sparsify(model, list(calibration_batches(EXAMPLES, tiny_tokenizer(), 16)), 0.5)
    supernet = SuperNetwork.from_pretrained(model, lora_rank((4, 2), TARGETS), tiny_tokenizer(), adapter_mode="masked")
    train(supernet, EXAMPLES, steps=4, batch_size=4, learning_rate=1e-2, progress=False)
    healed = heal(smallest(supernet), EXAMPLES, steps=4, learning_rate=1e-2, batch_size=4, progress=False)
    pruned = smallest(supernet).extract().state_dict()
    for name, weight in healed.extract(merge=True).state_dict().items():
        if "proj" in name:
            assert torch.equal(weight == 0, pruned[name] == 0)
            assert not torch.equal(weight, pruned[name])


def test_qa_sparsepeft_stays_on_its_grid() -> None:
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    batches = list(calibration_batches(EXAMPLES, tokenizer, 16))
    sparsify(model, batches, 0.5)
    quantization = quantize_model(model, batches, 4, 16, False)
    supernet = SuperNetwork.from_pretrained(
        model, lora_rank((4, 2), TARGETS), tokenizer, adapter_mode="quantized", quantization=quantization
    )
    train(supernet, EXAMPLES, steps=4, batch_size=4, learning_rate=1e-2, progress=False)
    healed = heal(smallest(supernet), EXAMPLES, steps=6, learning_rate=2e-2, batch_size=4, progress=False)
    merged = healed.extract(merge=True)
    torch.testing.assert_close(logits(merged), logits(healed.model), atol=0, rtol=0)
    moved = 0
    for module, linear in supernet.elastic_linears.items():
        weight = merged.get_submodule(supernet.family.path(module)).weight
        integers = quantize(weight, linear.grid)
        assert torch.equal(((integers - _zero(linear, integers)) * _scale(linear, integers)).to(weight), weight)
        assert bool((weight[linear.weight == 0] == 0).all())
        moved += int((integers != quantize(linear.combined_weight(), linear.grid)).sum())
    assert moved


def _scale(linear, integers):
    return linear.grid.scale.repeat_interleave(integers.shape[1] // linear.grid.scale.shape[1], 1)


def _zero(linear, integers):
    return linear.grid.zero_point.repeat_interleave(integers.shape[1] // linear.grid.zero_point.shape[1], 1)


def test_fresh_adapter_beside_a_sparse_weight_is_refused_and_a_continued_one_heals() -> None:
    model = tiny_llama()
    sparsify(model, list(calibration_batches(EXAMPLES, tiny_tokenizer(), 16)), 0.5)
    supernet = SuperNetwork.from_pretrained(model, lora_rank((4,), TARGETS), tiny_tokenizer())
    train(supernet, EXAMPLES, steps=2, batch_size=4, progress=False)
    with pytest.raises(ExportError, match="zeros"):
        heal(supernet.largest, EXAMPLES, steps=2, batch_size=4, progress=False)
    healed = heal(supernet.largest, EXAMPLES, steps=2, adapters="continued", batch_size=4, progress=False)
    torch.testing.assert_close(logits(healed.extract()), logits(healed.model))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"until": 9}, "from 1 to 4"),
        ({"adapters": "none"}, "choose one of fresh, continued"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_bad_setting_is_refused_before_work(bad, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        heal(smallest(tuned(steps=1)), EXAMPLES, **{"steps": 4, "progress": False} | bad)


def test_a_subnetwork_without_a_block_says_that_it_has_nothing_to_heal() -> None:
    supernet = supernetwork(tiny_llama(), lora_rank((4,)) + layer_skip())
    with pytest.raises(ValueError, match="it has no block left; choose a larger one"):
        heal(smallest(supernet), EXAMPLES, steps=1, progress=False)
    with pytest.raises(ValueError, match="add lora_rank"):
        heal(supernetwork(tiny_llama(), mlp_width((1.0, 0.5))).largest, EXAMPLES, steps=1, progress=False)
