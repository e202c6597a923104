"""Patterns of zeros against their definitions, and models made sparse layer by layer."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas_engine.compression import magnitude_mask, pattern_of, sparsify, sparsity_report, wanda_mask
from nas_engine.compression.calibration import calibrated_layers
from nas_engine.compression.kept_weights import refitted
from nas_engine.compression.observers import InputNorms
from nas_engine.compression.sparsification import matrix_of
from nas_engine.errors import CompressionError
from tests.supernets import CALIBRATION, FAMILIES
from tests.tiny import tiny_llama

PADDED = [
    {
        "input_ids": torch.arange(2, 22).view(2, 10),
        "attention_mask": torch.tensor([[1] * 10, [1] * 6 + [0] * 4]),
    }
]


def weight(outputs: int = 6, inputs: int = 16) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0))


@given(ratio=st.floats(0, 0.99), inputs=st.integers(1, 40))
def test_wanda_drops_the_lowest_scores_of_every_row(ratio: float, inputs: int) -> None:
    matrix, norms = weight(inputs=inputs), torch.rand(inputs)
    keep = wanda_mask(matrix, norms, pattern_of(ratio))
    scores = matrix.abs() * norms
    for row, kept in zip(scores, keep, strict=True):
        assert (~kept).sum() == int(inputs * ratio)
        if kept.any() and not kept.all():
            assert row[~kept].max() <= row[kept].min()


@pytest.mark.parametrize(("pattern", "n", "m"), [("2:4", 2, 4), ("4:8", 4, 8), ("1:4", 1, 4)])
def test_n_of_m_keeps_the_n_highest_of_every_m_inputs(pattern: str, n: int, m: int) -> None:
    matrix, norms = weight(), torch.rand(16)
    groups = wanda_mask(matrix, norms, pattern_of(pattern)).unflatten(1, (-1, m))
    scores = (matrix.abs() * norms).unflatten(1, (-1, m))
    assert (groups.sum(2) == n).all()
    assert (scores.masked_fill(groups, -1).amax(2) <= scores.masked_fill(~groups, 9).amin(2)).all()


def test_magnitude_compares_over_the_whole_matrix() -> None:
    matrix = weight() * torch.arange(1, 7)[:, None]
    keep = magnitude_mask(matrix, pattern_of(0.5))
    assert (~keep).sum() == matrix.numel() // 2
    assert matrix.abs()[~keep].max() <= matrix.abs()[keep].min()
    assert keep.sum(1).unique().numel() > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_projection_becomes_sparse_and_nothing_else(family: str) -> None:
    model, original = FAMILIES[family](), FAMILIES[family]()
    report = sparsify(model, CALIBRATION, 0.5)
    assert report["sparsity"].tolist() == pytest.approx([0.5] * len(report))
    changed = {
        name
        for (name, now), before in zip(model.named_parameters(), original.parameters(), strict=True)
        if not torch.equal(now, before)
    }
    assert len(changed) == len(report)
    assert all(name.endswith("weight") for name in changed)


def test_each_layer_is_scored_on_what_the_pruned_layers_before_it_give() -> None:
    model = tiny_llama()
    sparsify(model, PADDED, 0.5)
    original = dict(tiny_llama().named_modules())
    # The pruned model's own forward pass shows each layer what calibration showed it when its turn came.
    inputs: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for i, layer in enumerate(model.model.layers):
            layer.self_attn.q_proj.register_forward_pre_hook(
                lambda module, args, i=i: inputs.__setitem__(f"model.layers.{i}.self_attn.q_proj", args[0])
            )
        model(**PADDED[0])
    for path, x in inputs.items():
        norms = x.flatten(0, 1)[PADDED[0]["attention_mask"].bool().flatten()].norm(dim=0)
        keep = wanda_mask(original[path].weight.detach(), norms, pattern_of(0.5))
        assert torch.equal(model.get_submodule(path).weight != 0, keep)


def test_padding_is_no_calibration_data() -> None:
    norms = {}
    for padded in (False, True):
        rows = slice(1, 2)
        batch = {name: t[rows] if padded else t[rows, :6] for name, t in PADDED[0].items()}
        layer = next(iter(calibrated_layers(tiny_llama(), [batch])))
        observer = InputNorms()
        layer.observe(observer)
        norms[padded] = observer["down"]
    torch.testing.assert_close(norms[True], norms[False], atol=1e-4, rtol=1e-4)


def test_report_counts_the_zeros_of_each_projection() -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[:3] = 0
    report = sparsity_report(model).set_index(["layer", "projection"])
    assert report.loc[(1, "up"), "zeros"] == 3 * 32
    assert report.loc[(1, "up"), "sparsity"] == pytest.approx(3 / 48)
    assert report["zeros"].sum() == 3 * 32


def test_wanda_keeps_more_of_a_layer_whose_inputs_differ_in_size_than_magnitude() -> None:
    matrix, inputs = weight(32, 64), torch.randn(200, 64) * torch.logspace(-1, 1, 64)
    errors = {
        name: ((matrix * ~keep) @ inputs.T).square().sum()
        for name, keep in {
            "wanda": wanda_mask(matrix, inputs.norm(dim=0), pattern_of(0.5)),
            "magnitude": magnitude_mask(matrix, pattern_of(0.5)),
        }.items()
    }
    assert errors["wanda"] < errors["magnitude"]


def test_bad_input_is_refused_with_what_to_do() -> None:
    empty = [{"input_ids": torch.zeros(1, 4, dtype=torch.long), "attention_mask": torch.zeros(1, 4)}]
    for batches in ([], empty):
        with pytest.raises(CompressionError, match="calibration data is empty; give at least one batch"):
            sparsify(tiny_llama(), batches, 0.5)
    with pytest.raises(CompressionError, match="48 inputs does not divide into groups of 32; give a ratio such as 0.5"):
        magnitude_mask(weight(4, 48), pattern_of("16:32"))
    for wrong in (1.0, -0.1, "half", "4:2"):
        with pytest.raises(CompressionError, match="sparsity is|pattern is"):
            pattern_of(wrong)
    with pytest.raises(CompressionError, match="method is 'taylor'; choose one of wanda, magnitude"):
        sparsify(tiny_llama(), CALIBRATION, 0.5, method="taylor")  # type: ignore[arg-type]


def test_conv1d_weights_are_compared_by_output() -> None:
    model = FAMILIES["gpt2"]()
    sparsify(model, CALIBRATION, 0.5)
    kept = matrix_of(model.transformer.h[0].mlp.c_fc) != 0
    assert (kept.sum(1) == 16).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_weights_are_the_least_squares_solution_of_every_row(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(300, 40, generator=generator) @ torch.randn(40, 40, generator=generator)
    matrix = torch.randn(7, 40, generator=generator).to(dtype)
    keep = torch.rand(7, 40, generator=generator) > 0.5
    keep[0], keep[1] = False, True  # nothing is kept, nothing is to be made up for
    found = refitted(matrix, keep, inputs.T @ inputs)
    assert found.dtype == dtype
    assert torch.equal(found != 0, keep)
    damped = (inputs.T @ inputs).double()
    damped.diagonal().add_(0.01 * damped.diagonal().mean())
    for row, kept, fitted in zip(matrix.double(), keep, found.double(), strict=True):
        wanted = torch.linalg.solve(damped[kept][:, kept], damped[kept] @ row)
        torch.testing.assert_close(fitted[kept], wanted, atol=0.03, rtol=0.03)


def test_inputs_that_calibration_never_shows_keep_their_weights() -> None:
    matrix, keep = weight(), torch.arange(16).repeat(6, 1) % 2 == 0
    assert torch.equal(refitted(matrix, keep, torch.zeros(16, 16)), matrix * keep)


@pytest.mark.parametrize("pattern", [0.5, "2:4"])
def test_refitting_keeps_the_first_masks_and_brings_the_outputs_closer(pattern: float | str) -> None:
    dense, plain, refit = tiny_llama(), tiny_llama(), tiny_llama()
    sparsify(plain, CALIBRATION, pattern)
    sparsify(refit, CALIBRATION, pattern, refit=True)
    first = [model.model.layers[0].self_attn.q_proj.weight for model in (plain, refit)]
    assert torch.equal(first[0] != 0, first[1] != 0)
    assert sparsity_report(plain)["zeros"].tolist() == sparsity_report(refit)["zeros"].tolist()
    with torch.no_grad():
        hidden = [model.model(**CALIBRATION[0]).last_hidden_state for model in (dense, plain, refit)]
    assert (hidden[2] - hidden[0]).square().sum() < (hidden[1] - hidden[0]).square().sum()
