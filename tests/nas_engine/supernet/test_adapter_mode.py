"""Adapters on sparse and quantized bases: what training computes is what merging, saving and loading give."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from nas_engine import Example, train
from nas_engine.compression import (
    GridSettings,
    dequantize,
    load_quantized,
    quantize,
    quantize_model,
    save_quantized,
    sparsify,
    sparsity_report,
)
from nas_engine.compression.checkpoint import unpacked
from nas_engine.errors import CompressionError, ExportError
from nas_engine.supernet import SuperNetwork
from search_spaces import attention_heads, layer_skip, lora_rank, mlp_width
from tests.compressed import qa_sparse_peft, quantized_model, shears, sparse_model, sparse_peft, sqft, zeros
from tests.supernets import CALIBRATION, FAMILIES, SPACE, TOKENS, logits, random_adapters, supernetwork
from tests.tiny import tiny_llama, tiny_tokenizer

RANKS = lora_rank((4, 2))
EVERY = SPACE + attention_heads((1.0, 0.5)) + layer_skip()
EXAMPLES = [Example(f"the {word} ", "is it") for word in ("cat", "dog", "tree", "house")]


def subnetworks(supernet: SuperNetwork, count: int = 4):
    genomes = supernet.space.sample(np.random.default_rng(0), count)
    return [supernet.subnetwork(supernet.space.configuration(genome)) for genome in genomes]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapter_mode", ["masked", "quantized"])
def test_merged_model_computes_what_the_active_subnetwork_computes(family: str, adapter_mode: str) -> None:
    model = FAMILIES[family]()
    sparsify(model, CALIBRATION, 0.5)
    quantization = quantize_model(model, CALIBRATION, 4, 4) if adapter_mode == "quantized" else None
    space = EVERY
    supernet = random_adapters(
        SuperNetwork.from_pretrained(
            model, space, tiny_tokenizer(), adapter_mode=adapter_mode, quantization=quantization
        )
    )
    if adapter_mode == "masked":
        supernet.order_by_importance(CALIBRATION)
    for subnet in subnetworks(supernet):
        extracted = subnet.extract(merge=True)
        assert (logits(extracted) - logits(subnet.model)).abs().max() < 1e-4
        assert sum(p.numel() for p in extracted.parameters()) == subnet.parameter_count()


def test_masked_merge_keeps_every_zero_and_adds_none() -> None:
    supernet = sparse_peft(RANKS)
    before = zeros(sparse_model())
    after = zeros(supernet.largest.extract(merge=True))
    assert after == before


def test_masked_adapter_on_a_dense_base_is_plain_lora() -> None:
    plain, masked = (
        random_adapters(supernetwork(tiny_llama(), SPACE, adapter_mode=way)) for way in ("plain", "masked")
    )
    for ours, theirs in zip(subnetworks(masked), subnetworks(plain), strict=True):
        torch.testing.assert_close(logits(ours.model), logits(theirs.model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", [shears, sparse_peft, sqft])
def test_fresh_adapter_changes_nothing_on_a_compressed_base(make) -> None:
    supernet = make(RANKS)
    with torch.no_grad():
        for linear in supernet.elastic_linears.values():
            linear.lora_B.zero_()
    base = quantized_model()[0] if make is sqft else sparse_model()
    torch.testing.assert_close(logits(supernet.largest.model), logits(base))


def test_fresh_quantized_adapter_starts_from_the_integers_that_gptq_found() -> None:
    model, quantization = quantized_model()
    before = logits(model)
    supernet = SuperNetwork.from_pretrained(
        model, RANKS, tiny_tokenizer(), adapter_mode="quantized", quantization=quantization
    )
    assert not torch.equal(
        supernet.elastic_linears["layers.0.q"].weight,
        quantized_model()[0].get_submodule("model.layers.0.self_attn.q_proj").weight,
    )
    assert torch.equal(logits(supernet.largest.model), before)


@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (4, False), (8, True), (8, False)])
def test_merged_integers_stand_for_exactly_the_weights_that_training_used(tmp_path, bits: int, symmetric: bool) -> None:
    supernet = qa_sparse_peft(RANKS, bits=bits, symmetric=symmetric)
    quantization = supernet.quantization
    assert quantization is not None
    train(supernet, EXAMPLES, steps=3, batch_size=2, learning_rate=1e-2, progress=False)
    subnet = subnetworks(supernet)[0]
    subnet.model.train()  # what the forward pass of training uses
    used = {name: linear.combined_weight().detach().clone() for name, linear in supernet.elastic_linears.items()}
    subnet.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    changed = 0
    for name, weight in used.items():
        path = supernet.family.path(name)
        tensors = {part.removeprefix(f"{path}."): t for part, t in stored.items() if part.startswith(f"{path}.")}
        integers, grid = unpacked(tensors, GridSettings(bits, 4, symmetric))
        assert torch.equal(dequantize(integers, grid), weight)
        assert torch.equal(grid.scale, quantization.grids[name].scale)
        assert torch.equal(grid.zero_point, quantization.grids[name].zero_point)
        base = quantization.unrounded[name]
        assert (weight[base == 0] == 0).all()
        changed += int((dequantize(integers, grid) != dequantize_of(base, quantization.grids[name])).sum())
    assert changed > 0


def dequantize_of(weight, grid):
    return dequantize(quantize(weight, grid), grid)


def test_gradient_goes_straight_through_the_grid_and_stops_at_the_mask() -> None:
    supernet = qa_sparse_peft(RANKS)
    linear = supernet.elastic_linears["layers.1.up"]
    x = torch.randn(5, 32)
    linear(x).square().sum().backward()
    weight = linear.combined_weight().detach().requires_grad_()
    F.linear(x, weight).square().sum().backward()
    through = weight.grad.masked_fill(linear.weight == 0, 0) * linear.scaling
    torch.testing.assert_close(linear.lora_B.grad, through @ linear.lora_A.T)
    torch.testing.assert_close(linear.lora_A.grad, linear.lora_B.T @ through)
    assert linear.weight.grad is None


def test_zeros_survive_training_merging_and_saving(tmp_path) -> None:
    supernet = sparse_peft(RANKS)
    before = zeros(sparse_model())
    train(supernet, EXAMPLES, steps=3, batch_size=2, learning_rate=1e-2, progress=False)
    subnet = subnetworks(supernet)[0]
    expected = logits(subnet.model)
    subnet.save_pretrained(tmp_path)
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert zeros(loaded) == before
    assert (logits(loaded) - expected).abs().max() < 1e-4
    assert sparsity_report(supernet.model)["zeros"].sum() == sparsity_report(loaded)["zeros"].sum()


_LOAD = """
    import sys, torch
    from transformers import AutoModelForCausalLM
    for folder in sys.argv[1:]:
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
        with torch.inference_mode():
            torch.save(model(torch.arange(2, 26).view(2, 12)).logits, folder + "/logits.pt")
    assert not [name for name in sys.modules if name.startswith(("nas_engine", "evaluators", "search_spaces"))]
"""


def test_merged_quantized_subnetworks_load_in_plain_transformers(tmp_path) -> None:
    supernet = qa_sparse_peft(EVERY)
    expected = {}
    space = supernet.space
    mixed = space.configuration(space.largest) | {
        "layers.0.mlp.width": 24,
        "layers.1.attention.keep": 0,
        "layers.2.attention.keep": 0,
        "layers.2.mlp.keep": 0,
    }
    for name, configuration in {"full": space.configuration(space.largest), "mixed": mixed}.items():
        subnet = supernet.subnetwork(configuration)
        subnet.save_pretrained(tmp_path / name)
        expected[tmp_path / name] = logits(subnet.model)
    command = [sys.executable, "-c", textwrap.dedent(_LOAD), *map(str, expected)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for folder, values in expected.items():
        loaded = torch.load(folder / "logits.pt", weights_only=True)
        assert (loaded - values).abs().max() < 1e-4
        assert TOKENS.shape == loaded.shape[:2]


@pytest.mark.parametrize("make", [shears, sparse_peft, sqft, qa_sparse_peft])
def test_saved_supernetwork_loads_as_it_was(tmp_path, make) -> None:
    supernet = make(RANKS)
    supernet.save(tmp_path)
    loaded = SuperNetwork.load(tmp_path)
    assert loaded.fingerprint() == supernet.fingerprint()
    assert loaded.adapter == supernet.adapter
    for ours, theirs in zip(subnetworks(loaded), subnetworks(supernet), strict=True):
        assert torch.equal(logits(ours.model), logits(theirs.model))
        assert ours.operators(1, 8) == theirs.operators(1, 8)


def test_folder_of_a_quantized_model_is_a_base(tmp_path) -> None:
    model, quantization = quantized_model()
    save_quantized(model, tiny_tokenizer(), quantization, tmp_path / "base")
    supernet = random_adapters(SuperNetwork.from_pretrained(tmp_path / "base", RANKS, adapter_mode="quantized"))
    supernet.save(tmp_path / "supernet")
    loaded = SuperNetwork.load(tmp_path / "supernet")
    assert torch.equal(logits(loaded.largest.model), logits(supernet.largest.model))
    supernet.largest.save_pretrained(tmp_path / "merged")
    merged, _, _ = load_quantized(tmp_path / "merged")
    assert (logits(merged) - logits(supernet.largest.model)).abs().max() < 1e-4


@pytest.mark.parametrize("make", [shears, sqft])
def test_plain_adapter_on_a_compressed_base_stays_beside_it(make) -> None:
    supernet = make(SPACE)
    for subnet in subnetworks(supernet):
        extracted = subnet.extract()
        assert (logits(extracted) - logits(subnet.model)).abs().max() < 1e-4
        assert sum(p.numel() for p in extracted.parameters()) == subnet.parameter_count()
        assert subnet.parameter_count() == subnet.parameter_count(merged=False)
        ops = {op.name: op for op in subnet.operators(1, 8)}
        rank = subnet.configuration["layers.0.gate_up.rank"]
        assert (ops["layers.0.up.lora_A"].n, ops["layers.0.up.lora_A"].sparsity) == (rank, 0.0)


def test_operators_tell_the_bits_and_the_zeros_of_each_projection() -> None:
    supernet = qa_sparse_peft(lora_rank((4, 2), ("q", "up")))
    report = sparsity_report(supernet.model)
    operators = {op.name: op for op in supernet.largest.operators(1, 8)}
    for _, row in report.iterrows():
        operator = operators[f"layers.{row['layer']}.{row['projection']}"]
        assert operator.weight_bits == 4
        assert operator.sparsity == pytest.approx(row["sparsity"])
    assert operators["lm_head"].weight_bits == 32
    assert operators["lm_head"].sparsity == 0
    assert not any("lora" in name for name in operators)
    narrow = sparse_peft(mlp_width((1.0, 0.5)) + RANKS)
    subnet = narrow.subnetwork(narrow.space.configuration(narrow.space.smallest))
    down = {op.name: op for op in subnet.operators(1, 8)}["layers.1.down"]
    weight = subnet.extract().model.layers[1].mlp.down_proj.weight
    assert down.sparsity == pytest.approx((weight == 0).float().mean().item())


def test_fused_adapter_beside_its_weight_counts_once() -> None:
    model = FAMILIES["phi3"]()
    sparsify(model, CALIBRATION, 0.5)
    supernet = random_adapters(supernetwork(model, RANKS))
    subnet = supernet.largest
    factors = sum(op.k * op.n for op in subnet.operators(1, 8) if "lora" in op.name)
    assert factors == sum(linear.active_adapter_parameters for linear in supernet.elastic_linears.values())


def test_merge_that_would_break_sparsity_or_the_grid_is_refused(tmp_path) -> None:
    with pytest.raises(ExportError, match=r"layers\.0\.q cannot be merged: .* would fill 512 of its 512 zeros"):
        shears(RANKS).largest.save_pretrained(tmp_path)
    with pytest.raises(ExportError, match=r"its weight is on a 4-bit grid, .*adapter_mode='quantized'"):
        sqft(RANKS).largest.extract(merge=True)


def test_shears_adapter_leaves_as_a_peft_adapter_and_masked_ones_are_refused(tmp_path) -> None:
    from peft import PeftModel

    supernet = shears(RANKS)
    subnet = subnetworks(supernet)[0]
    expected = logits(subnet.model)
    subnet.save_adapter(tmp_path)
    assert (logits(PeftModel.from_pretrained(sparse_model(), tmp_path)) - expected).abs().max() < 1e-4
    with pytest.raises(ExportError, match="act on the weights as 'masked', which no PEFT adapter can express"):
        sparse_peft(RANKS).largest.save_adapter(tmp_path)


def test_bad_adapter_modes_are_refused_with_what_to_do() -> None:
    model, quantization = quantized_model()
    with pytest.raises(ValueError, match="adapter_mode is 'merged'; choose one of plain, masked, quantized"):
        supernetwork(model, RANKS, adapter_mode="merged")
    with pytest.raises(CompressionError, match="needs the grids of a quantized base"):
        supernetwork(model, RANKS, adapter_mode="quantized")
    with pytest.raises(CompressionError, match="would take a quantized base off its grids"):
        supernetwork(model, RANKS, adapter_mode="masked", quantization=quantization)
    with pytest.raises(CompressionError, match=r"layers\.0\.mlp\.width may be 36, which cuts a group of 8 inputs"):
        supernetwork(model, mlp_width((1.0, 0.75)), quantization=quantize_groups(model, 8))
    with pytest.raises(ValueError, match="dropout is 0.1, but with adapter_mode='masked'"):
        supernetwork(sparse_model(), RANKS, adapter_mode="masked", dropout=0.1)
    foreign = tiny_llama()
    foreign.config.quantization_config = {"quant_method": "gptq", "bits": 4}
    with pytest.raises(CompressionError, match="already quantized in the format 'gptq'"):
        supernetwork(foreign, RANKS)


def quantize_groups(model, group_size: int):
    return quantize_model(model, CALIBRATION, 4, group_size)


def test_quantized_inputs_cannot_be_reordered() -> None:
    supernet = qa_sparse_peft(SPACE)
    assert supernet.ordered
    with pytest.raises(ValueError, match="order the model before it is quantized"):
        supernet.order_by_importance(CALIBRATION)


def test_grids_move_and_cast_with_their_layer() -> None:
    linear = qa_sparse_peft(RANKS).elastic_linears["layers.0.q"].to(torch.bfloat16)
    assert linear.grid.scale.dtype == torch.bfloat16
    assert linear.grid.zero_point.dtype == torch.int8
