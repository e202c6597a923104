"""Grids against their formula, GPTQ against its own definition, and files that plain transformers loads."""

import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from nas_engine.compression import (
    GridSettings,
    dequantize,
    find_grid,
    gptq,
    load_quantized,
    quantize,
    quantize_model,
    round_to_nearest,
    save_quantized,
    sparsify,
)
from nas_engine.compression.checkpoint import packed, unpacked
from nas_engine.compression.quantization import Quantization
from nas_engine.compression.rounding import output_error
from nas_engine.errors import CompressionError
from nas_engine.families.descriptions import family_of
from tests.supernets import CALIBRATION, FAMILIES, logits
from tests.tiny import tiny_llama, tiny_tokenizer

GRIDS = st.builds(GridSettings, st.sampled_from((4, 8)), st.sampled_from((4, 8, 16)), st.booleans())


def sparse_weight(seed: int = 0, outputs: int = 8, inputs: int = 32, ratio: float = 0.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator)
    return weight * (torch.rand(outputs, inputs, generator=generator) >= ratio)


def correlated_hessian(seed: int = 0, inputs: int = 32, tokens: int = 200) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    # Directions of falling variance, as activations have them.
    mixing = torch.logspace(1, -1, inputs)[:, None] * torch.randn(inputs, inputs, generator=generator)
    x = torch.randn(tokens, inputs, generator=generator) @ mixing
    return x.T @ x


@settings(max_examples=30, deadline=None)
@given(grid=GRIDS, seed=st.integers(0, 1000))
def test_quantize_and_dequantize_do_what_their_formula_says(grid: GridSettings, seed: int) -> None:
    weight = sparse_weight(seed)
    found = find_grid(weight, grid)
    integers = quantize(weight, found)
    back = dequantize(integers, found)
    for row in range(len(weight)):
        for column in range(weight.shape[1]):
            scale = found.scale[row, column // grid.group_size]
            zero = int(found.zero_point[row, column // grid.group_size])
            q = min(max(int((weight[row, column] / scale).round()) + zero, -(2 ** (grid.bits - 1))), grid.largest)
            assert integers[row, column] == q
            assert back[row, column] == scale * (q - zero)
    assert (back[weight == 0] == 0).all()
    assert torch.equal(quantize(back, found), integers)
    if not grid.symmetric:  # nothing is clipped but for the rounding of the zero point
        assert ((back - weight).abs() <= found.scale.repeat_interleave(grid.group_size, 1) * 1.01).all()


def naive_gptq(weight: Tensor, hessian: Tensor, grid, damping: float = 0.01) -> Tensor:
    """One input after the other with the inverse Hessian of those that are left, computed anew each time."""
    left, keep = weight.double().clone(), weight != 0
    damped = hessian.double() + damping * hessian.double().diagonal().mean() * torch.eye(len(hessian))
    rounded = torch.zeros_like(left)
    for j in range(weight.shape[1]):
        column = torch.zeros_like(left)
        column[:, j] = left[:, j] * keep[:, j]
        rounded[:, j] = dequantize(quantize(column.float(), grid), grid)[:, j]
        inverse = torch.linalg.inv(damped[j:, j:])
        error = (left[:, j] - rounded[:, j]) / inverse[0, 0]
        left[:, j:] -= error[:, None] * inverse[0]
    return rounded


@pytest.mark.parametrize("seed", range(3))
def test_gptq_gives_what_rounding_one_input_after_the_other_gives(seed: int) -> None:
    weight, hessian = sparse_weight(seed), correlated_hessian(seed)
    # One group a row, so that its grid does not depend on what was compensated.
    found = gptq(weight, hessian, GridSettings(4, 32), act_order=False)
    expected = naive_gptq(weight, hessian, found.grid)
    torch.testing.assert_close(found.weight.double(), expected, atol=1e-5, rtol=1e-5)
    order = hessian.diagonal().argsort(descending=True, stable=True)
    reordered = gptq(weight, hessian, GridSettings(4, 32), act_order=True)
    expected = naive_gptq(weight[:, order], hessian[order][:, order], reordered.grid)
    torch.testing.assert_close(reordered.weight[:, order].double(), expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(grid=GRIDS, seed=st.integers(0, 1000), act_order=st.booleans())
def test_gptq_keeps_zeros_and_rounds_what_it_says_it_rounded(grid: GridSettings, seed: int, act_order: bool) -> None:
    weight, hessian = sparse_weight(seed), correlated_hessian(seed)
    found = gptq(weight, hessian, grid, act_order)
    assert (found.weight[weight == 0] == 0).all()
    assert (found.unrounded[weight == 0] == 0).all()
    assert torch.equal(quantize(found.unrounded, found.grid), found.integers)
    assert torch.equal(quantize(found.weight, found.grid), found.integers)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group_size", [8, 32])
def test_gptq_loses_less_of_the_outputs_than_rounding_to_nearest(act_order: bool, group_size: int) -> None:
    weight, hessian = sparse_weight(outputs=64), correlated_hessian()
    grid = GridSettings(4, group_size)
    ours = output_error(weight, gptq(weight, hessian, grid, act_order).weight, hessian)
    assert ours < 0.7 * output_error(weight, round_to_nearest(weight, grid).weight, hessian)


def test_gptq_of_independent_inputs_is_rounding_to_nearest() -> None:
    weight = sparse_weight()
    found = gptq(weight, torch.eye(32), GridSettings(4, 8))
    assert torch.equal(found.integers, round_to_nearest(weight, GridSettings(4, 8)).integers)


def test_inputs_that_are_never_active_do_no_harm() -> None:
    hessian = correlated_hessian()
    hessian[5], hessian[:, 5] = 0, 0
    assert gptq(sparse_weight(), hessian, GridSettings(4, 8)).weight.isfinite().all()
    assert gptq(sparse_weight(), torch.zeros(32, 32), GridSettings(4, 8)).weight.isfinite().all()


@settings(deadline=None)
@given(grid=GRIDS, seed=st.integers(0, 1000), half=st.booleans())
def test_packing_and_dequantizing_are_those_of_compressed_tensors(grid: GridSettings, seed: int, half: bool) -> None:
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    weight = sparse_weight(seed).to(torch.bfloat16 if half and grid.bits == 4 else torch.float32)
    found = round_to_nearest(weight, grid)
    tensors = packed(found.weight, found.grid)
    arguments = QuantizationArgs(
        num_bits=grid.bits, symmetric=grid.symmetric, strategy="group", group_size=grid.group_size
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    theirs = PackedQuantizationCompressor.decompress(dict(tensors), scheme)["weight"]
    assert theirs.dtype == weight.dtype
    assert torch.equal(theirs, found.weight)
    integers, read = unpacked(tensors, grid)
    assert torch.equal(integers, found.integers)
    assert torch.equal(read.scale, found.grid.scale)
    assert torch.equal(read.zero_point, found.grid.zero_point)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_keeps_its_zeros_on_the_grid(family: str) -> None:
    model = FAMILIES[family]()
    before = sparsify(model, CALIBRATION, 0.5)
    quantization = quantize_model(model, CALIBRATION, 8, group_size=16)
    report = quantization.report
    assert len(report) == len(before)
    assert report["error"].max() < 1e-3
    sparse = sparsify(model, CALIBRATION, 0.0)  # counts
    assert (sparse["zeros"] >= before["zeros"]).all()


_LOAD = """
    import sys, torch
    from transformers import AutoModelForCausalLM
    for folder in sys.argv[1:]:
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        with torch.inference_mode():
            torch.save(model(torch.arange(2, 26).view(2, 12)).logits, folder + "/logits.pt")
    assert not [name for name in sys.modules if name.startswith(("nas_engine", "evaluators", "search_spaces"))]
"""


def test_saved_models_load_in_plain_transformers_with_the_same_logits(tmp_path) -> None:
    expected = {}
    for symmetric in (True, False):
        model, folder = tiny_llama(), tmp_path / f"symmetric_{symmetric}"
        sparsify(model, CALIBRATION, 0.5)
        quantization = quantize_model(model, CALIBRATION, 4, group_size=16, symmetric=symmetric)
        save_quantized(model, tiny_tokenizer(), quantization, folder)
        expected[folder] = logits(model)
        again, _, read = load_quantized(folder)
        assert torch.equal(logits(again), logits(model))
        assert set(read.grids) == set(quantization.grids)
        assert sum(t.nbytes for t in packed_tensors(folder).values()) == quantization.report["bytes"].sum()
    command = [sys.executable, "-c", textwrap.dedent(_LOAD), *map(str, expected)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for folder, values in expected.items():
        assert torch.equal(torch.load(folder / "logits.pt", weights_only=True), values)


def packed_tensors(folder) -> dict[str, Tensor]:
    parts = ("weight_packed", "weight_scale", "weight_zero_point")
    return {name: t for name, t in load_file(folder / "model.safetensors").items() if name.endswith(parts)}


def test_group_size_that_does_not_divide_leaves_the_model_as_it_was() -> None:
    model = tiny_llama()
    before = logits(model)
    with pytest.raises(CompressionError, match=r"does not divide the 48 inputs of layers\.0\.down; choose one of 16"):
        quantize_model(model, CALIBRATION, 4, group_size=32)
    assert torch.equal(logits(model), before)


def test_bad_input_is_refused_with_what_to_do(tmp_path) -> None:
    with pytest.raises(CompressionError, match="calibration data is empty"):
        quantize_model(tiny_llama(), [], group_size=16)
    with pytest.raises(CompressionError, match="bits is 3; choose one of 4, 8"):
        quantize_model(tiny_llama(), CALIBRATION, 3, group_size=16)
    with pytest.raises(CompressionError, match="method is 'awq'; choose one of gptq, rtn"):
        quantize_model(tiny_llama(), CALIBRATION, 4, 16, method="awq")  # type: ignore[arg-type]
    elsewhere = tiny_llama()
    elsewhere.config.quantization_config = {"quant_method": "awq", "bits": 4}
    with pytest.raises(CompressionError, match="already quantized in the format 'awq'; give the unquantized model"):
        quantize_model(elsewhere, CALIBRATION, 4, 16)
    with pytest.raises(CompressionError, match="holds no quantized model"):
        load_quantized(tmp_path)
    moved = tiny_llama()
    quantization = quantize_model(moved, CALIBRATION, 4, group_size=16)
    with torch.no_grad():
        moved.model.layers[1].mlp.up_proj.weight[0, 0] += 0.01
    with pytest.raises(CompressionError, match=r"layers\.1\.mlp\.up_proj has 1 of 1536 weights off its 4-bit grid"):
        save_quantized(moved, tiny_tokenizer(), quantization, tmp_path)
    fused = FAMILIES["gpt2"]()
    quantization = quantize_model(fused, CALIBRATION, 4, group_size=16)
    with pytest.raises(CompressionError, match="is a Conv1D, and the pack-quantized format holds linear layers alone"):
        save_quantized(fused, tiny_tokenizer(), quantization, tmp_path)


def test_base_that_compressed_tensors_quantized_is_not_quantized_again(tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    model = tiny_llama()
    quantization = quantize_model(model, CALIBRATION, 4, group_size=16)
    save_quantized(model, tiny_tokenizer(), quantization, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(CompressionError, match="read this one with nas_engine.compression.load_quantized"):
        quantize_model(loaded, CALIBRATION, 4, group_size=16)


def test_layers_of_different_bits_load_in_transformers_and_here(tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    model = tiny_llama()
    quantization = quantize_model(model, CALIBRATION, 4, group_size=16)
    eight = quantize_model(tiny_llama(), CALIBRATION, 8, group_size=8, symmetric=False)
    grids = dict(quantization.grids)
    for name, grid in eight.grids.items():
        if name.startswith("layers.0."):
            grids[name] = grid
            weight = model.get_submodule(family_of(model).path(name)).weight
            weight.data.copy_(dequantize(quantize(weight.detach(), grid), grid))
    save_quantized(model, tiny_tokenizer(), Quantization(grids), tmp_path)
    again, _, read = load_quantized(tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert {name: grid.settings for name, grid in read.grids.items()} == {n: g.settings for n, g in grids.items()}
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))
