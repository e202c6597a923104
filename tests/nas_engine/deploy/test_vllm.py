"""Folders for vLLM, which is not run here: they load in transformers, and hold what vLLM's own source asks for."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from typer.testing import CliRunner

from nas_engine import SuperNetwork, export
from nas_engine.cli import app
from nas_engine.compression import quantize_model, save_quantized
from nas_engine.compression.grid import GridSettings, dequantize, find_grid, quantize
from nas_engine.compression.quantization import Quantization
from nas_engine.compression.sparsification import matrix_of
from nas_engine.deploy.exported import ExportRequest
from nas_engine.deploy.vllm_folder import export_vllm
from nas_engine.deploy.vllm_form import implementation_of
from nas_engine.errors import ExportError
from nas_engine.families.descriptions import family_of
from search_spaces import attention_heads, layer_skip, lora_rank, mlp_width
from tests.supernets import CALIBRATION, FAMILIES, logits, random_adapters, supernetwork
from tests.tiny import (
    tiny_bloom,
    tiny_gemma2,
    tiny_gpt2,
    tiny_llama,
    tiny_mistral,
    tiny_mpt,
    tiny_qwen2,
    tiny_tokenizer,
)

TEXTS = ("the water on", "a bird in 12 35")
SPACE = lora_rank((4,), ("q", "v", "up", "down")) + mlp_width((1.0, 2 / 3, 1 / 3)) + layer_skip()
HEADS = attention_heads((1.0, 0.5), layers_per_gene=3)
LIKE_LLAMA = {"llama": tiny_llama, "mistral": tiny_mistral, "qwen2": tiny_qwen2}


def elastic(model: PreTrainedModel, space=SPACE + HEADS) -> SuperNetwork:
    return random_adapters(supernetwork(model, space))


def rules_of_vllm(config: dict) -> dict[str, tuple[int, ...]]:
    """The tensors that `DeciLMForCausalLM` of vLLM 0.33 has, by what a checkpoint calls them, with their shapes.

    Written after `vllm/model_executor/models/nemotron_nas.py` and the parts of `llama.py` that it takes over, and not
    after the code that writes the folder.
    """
    hidden, vocabulary, heads = config["hidden_size"], config["vocab_size"], config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    tensors["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = (vocabulary, hidden)
    for i in range(config["num_hidden_layers"]):
        block, layer = config["block_configs"][i], f"model.layers.{i}"
        if not block["attention"]["no_op"]:
            kv_heads = heads // block["attention"]["n_heads_in_group"]
            shapes = {"q": (heads * size, hidden), "k": (kv_heads * size, hidden), "v": (kv_heads * size, hidden),
                      "o": (hidden, heads * size)}  # fmt: skip
            tensors |= {f"{layer}.self_attn.{name}_proj.weight": shape for name, shape in shapes.items()}
            if config.get("attention_bias") or config.get("bias"):
                tensors |= {f"{layer}.self_attn.{name}_proj.bias": shape[:1] for name, shape in shapes.items()}
            tensors[f"{layer}.input_layernorm.weight"] = (hidden,)
        if not block["ffn"]["no_op"]:
            width = block["ffn"].get("intermediate_size")
            if "ffn_mult" in block["ffn"]:
                width = -(-int(2 * block["ffn"]["ffn_mult"] * hidden / 3) // 256) * 256
            assert block["ffn"].get("hidden_act", config["hidden_act"]) == "silu"
            tensors |= {f"{layer}.mlp.{name}_proj.weight": (width, hidden) for name in ("gate", "up")}
            tensors[f"{layer}.mlp.down_proj.weight"] = (hidden, width)
            tensors[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
    assert not config["block_configs"][0]["attention"]["no_op"], "the first layer adds to a residual that is not there"
    return tensors


def require_rules(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    found = {name: tuple(tensor.shape) for name, tensor in load_file(folder / "model.safetensors").items()}
    assert config["architectures"] == ["DeciLMForCausalLM"]
    assert found == rules_of_vllm(config)
    read = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    for block, said in zip(read.block_configs, config["block_configs"], strict=True):
        assert block.attention.no_op is said["attention"]["no_op"]  # vLLM reads attributes
        assert not hasattr(block.ffn, "ffn_mult")
        assert not hasattr(block.ffn, "hidden_act")


@pytest.mark.parametrize("family", LIKE_LLAMA)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_configuration_leaves_and_computes_the_same_or_is_refused(family, tmp_path, data) -> None:
    supernet = elastic(LIKE_LLAMA[family]())
    configuration = {gene.name: data.draw(st.sampled_from(gene.values)) for gene in supernet.space.genes}
    subnet = supernet.subnetwork(configuration)
    first = next(i for i in (*subnet.layers_left, None) if i is not None)
    folder = tmp_path / "served"
    if not configuration[f"layers.{first}.attention.keep"]:
        with pytest.raises(ExportError, match="first layer needs attention"):
            subnet.export("vllm", folder, texts=TEXTS)
        return
    made = subnet.export("vllm", folder, texts=TEXTS)
    assert made.check.exact < 1e-4
    loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    torch.testing.assert_close(logits(loaded), logits(subnet.extract()), atol=1e-4, rtol=1e-4)
    if made.architecture == "DeciLMForCausalLM":
        require_rules(folder)
    blocks = [configuration[f"layers.{i}.{block}.keep"] for i in subnet.layers_left for block in ("attention", "mlp")]
    assert all(blocks) or made.architecture == "DeciLMForCausalLM"


def test_each_way_that_vllm_has_is_taken_where_it_is_the_first_that_can(tmp_path) -> None:
    supernet = elastic(tiny_llama())
    whole = dict(supernet.largest.configuration)
    forms = {
        "native": whole | {f"layers.{i}.mlp.width": 16 for i in range(3)},
        "transformers": whole | {"layers.1.mlp.width": 16, "layers.0-2.attention.heads": 2},
        "nemotron_nas": whole | {"layers.1.mlp.width": 16, "layers.2.attention.keep": 0},
    }
    for form, configuration in forms.items():
        assert implementation_of(supernet.subnetwork(configuration).extract()) == form
    gemma = elastic(tiny_gemma2(), SPACE)
    without_mlp = dict(gemma.largest.configuration) | {"layers.1.mlp.keep": 0}
    assert implementation_of(gemma.subnetwork(without_mlp).extract()) == "transformers"
    # vLLM's own Qwen2 takes the size of a head from the number of heads.
    fewer = elastic(tiny_qwen2(), HEADS)
    assert implementation_of(fewer.subnetwork({"layers.0-2.attention.heads": 2}).extract()) == "transformers"


@pytest.mark.parametrize("family", ["gemma3", "gpt2", "opt", "phi3", "qwen3"])
def test_widths_that_differ_leave_in_other_families(family: str, tmp_path) -> None:
    supernet = random_adapters(supernetwork(FAMILIES[family](), mlp_width((1.0, 0.5))))
    subnet = supernet.subnetwork(dict(supernet.largest.configuration) | {"layers.1.mlp.width": 24})
    made = subnet.export("vllm", tmp_path / "served", texts=TEXTS)
    assert (made.architecture, made.check.same_text) == ("TransformersForCausalLM", True)
    assert made.bytes == (tmp_path / "served" / "model.safetensors").stat().st_size
    assert json.loads((tmp_path / "served" / "export.json").read_text())["check"]["exact"] < 1e-4


def test_an_mlp_without_a_module_of_its_own_is_left_out_too(tmp_path) -> None:
    supernet = elastic(FAMILIES["opt"](), SPACE)
    subnet = supernet.subnetwork(dict(supernet.largest.configuration) | {"layers.1.mlp.keep": 0})
    made = subnet.export("vllm", tmp_path / "served", texts=TEXTS)
    assert (made.architecture, made.check.same_text) == ("TransformersForCausalLM", True)


@pytest.mark.parametrize(
    ("model", "space", "gene", "message"),
    [
        (tiny_mpt, SPACE, None, "models of type 'mpt' are not written for vLLM; bloom,"),
        (lambda: tiny_llama(hidden_act="gelu"), SPACE, None, "activation is 'gelu'"),
        (tiny_bloom, SPACE, "layers.1.mlp.width", "knows no bloom; give all layers the whole sizes"),
        (tiny_gpt2, SPACE, "layers.1.attention.keep", "layer 1 has no attention; keep it.*gpt2 is not"),
        (tiny_llama, SPACE, "layers.0.attention.keep", "first layer needs attention"),
        (tiny_llama, attention_heads((1.0, 0.5)), "layers.1.attention.heads", "layers have 2 and 4 query heads"),
        (tiny_gpt2, HEADS, "layers.0-2.attention.heads", "keep all heads"),
        (lambda: tiny_mistral(sliding_window=8), SPACE, "layers.1.attention.keep", "no sliding window"),
    ],
)
def test_what_vllm_cannot_build_is_refused_with_the_reason_and_nothing_is_left(
    model, space, gene, message, tmp_path
) -> None:
    supernet = elastic(model(), space)
    smallest = supernet.space.configuration(supernet.space.smallest)
    chosen = {} if gene is None else {gene: smallest[gene]}
    subnet = supernet.subnetwork(dict(supernet.largest.configuration) | chosen)
    with pytest.raises(ExportError, match=message):
        subnet.export("vllm", tmp_path / "served", texts=TEXTS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("weights", [None, "bf16"])
@pytest.mark.parametrize("skipped", [False, True])
def test_an_output_tied_to_the_embeddings_is_written_once(weights, skipped: bool, tmp_path) -> None:
    supernet = elastic(tiny_llama(tie_word_embeddings=True))
    chosen = {"layers.1.attention.keep": 0} if skipped else {"layers.1.mlp.width": 16}
    subnet = supernet.subnetwork(dict(supernet.largest.configuration) | chosen)
    made = subnet.export("vllm", tmp_path / "served", weights=weights, texts=TEXTS)
    assert "lm_head.weight" not in load_file(tmp_path / "served" / "model.safetensors")
    assert made.bytes < subnet.parameter_count() * (2 if weights else 4) + 5000
    if skipped:
        require_rules(tmp_path / "served")


@pytest.mark.parametrize("weights", ["f16", "bf16"])
def test_weights_are_rounded_as_asked(weights: str, tmp_path) -> None:
    made = export(tiny_llama(), tiny_tokenizer(), tmp_path / "served", format="vllm", weights=weights, texts=TEXTS)
    config = json.loads((tmp_path / "served" / "config.json").read_text())
    assert config["dtype"] == {"f16": "float16", "bf16": "bfloat16"}[weights]
    assert 0 < made.check.rounding < 0.5
    assert made.check.exact < 1e-4
    with pytest.raises(ExportError, match="weights is 'q8_0'; vllm stores f32, f16, bf16"):
        export(tiny_llama(), tiny_tokenizer(), tmp_path / "other", format="vllm", weights="q8_0")


def rounded(model: PreTrainedModel, kinds) -> Quantization:
    """`model` with each projection put on the grid that `kinds` gives its name, if any."""
    family, grids = family_of(model), {}
    for index in range(model.config.num_hidden_layers):
        for projection in family.projections:
            name = f"layers.{index}.{projection}"
            settings_ = kinds(name)
            if settings_ is not None:
                weight = matrix_of(model.get_submodule(family.path(name)))
                grids[name] = find_grid(weight, settings_)
                with torch.no_grad():
                    weight.copy_(dequantize(quantize(weight, grids[name]), grids[name]))
    return Quantization(grids)


def quantized(model: PreTrainedModel, kinds, folder: Path):
    quantization = rounded(model, kinds)
    grids = {family_of(model).path(name): grid for name, grid in quantization.grids.items()}
    return export_vllm(ExportRequest(model, tiny_tokenizer(), folder, None, grids, TEXTS, check=True))


def test_bits_that_differ_by_layer_leave_with_exact_targets(tmp_path) -> None:
    model = tiny_llama(hidden_size=128, num_attention_heads=4, head_dim=32, intermediate_size=128)
    kinds = {"0": GridSettings(8, 32), "1": GridSettings(4, 64), "2": None}
    made = quantized(model, lambda name: kinds[name.split(".")[1]], tmp_path / "served")
    assert made.weights is None
    assert made.check.exact < 1e-4
    config = json.loads((tmp_path / "served" / "config.json").read_text())["quantization_config"]
    groups = {group["weights"]["num_bits"]: group for group in config["config_groups"].values()}
    assert set(groups) == {4, 8}
    for bits, layer in ((8, 0), (4, 1)):
        assert len(groups[bits]["targets"]) == 7
        assert all(target.startswith(f"model.layers.{layer}.") for target in groups[bits]["targets"])
    assert sum(name.startswith("model.layers.2.") for name in config["ignore"]) == 7
    assert "lm_head" in config["ignore"]


def test_integers_that_vllm_would_not_load_are_refused_and_what_it_pads_is_said(tmp_path) -> None:
    def made(kinds, **config):
        sizes = {"hidden_size": 128, "num_attention_heads": 4, "head_dim": 32, "intermediate_size": 128}
        return quantized(tiny_llama(**sizes | config), kinds, tmp_path / "served")

    four, eight = GridSettings(4, 32), GridSettings(8, 32)
    with pytest.raises(ExportError, match=r"in layer 0 they differ: q 4 bits in groups of 32, k 8 bits .*share="):
        made(lambda name: four if name.endswith(".q") else eight)
    with pytest.raises(ExportError, match="gate, up of a layer as one.*gate 16 bits"):
        made(lambda name: four if name.endswith(".up") else None)
    with pytest.raises(ExportError, match="groups of 16; vLLM's kernel knows 32, 64, 128"):
        made(lambda name: GridSettings(4, 16))
    with pytest.raises(ExportError, match="8 bits with zero points"):
        made(lambda name: GridSettings(8, 32, symmetric=False))
    assert not list(tmp_path.iterdir())
    with pytest.warns(UserWarning, match="9 matrices are no whole tiles"):
        made(lambda name: GridSettings(4, 32, symmetric=False), intermediate_size=96)


def test_a_quantized_sub_network_without_a_block_leaves_with_its_own_integers(tmp_path) -> None:
    model = tiny_llama(hidden_size=128, num_attention_heads=4, head_dim=32, intermediate_size=256)
    quantization = quantize_model(model, CALIBRATION, 4, 32)
    supernet = SuperNetwork.from_pretrained(
        model, mlp_width((1.0, 0.5)) + layer_skip(), tiny_tokenizer(), quantization=quantization
    )
    configuration = dict(supernet.largest.configuration) | {"layers.1.attention.keep": 0, "layers.2.mlp.width": 128}
    subnet = supernet.subnetwork(configuration)
    made = subnet.export("vllm", tmp_path / "served", texts=TEXTS)
    assert made.architecture == "DeciLMForCausalLM"
    assert made.check.exact < 1e-4
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "served", trust_remote_code=True)
    torch.testing.assert_close(logits(loaded), logits(subnet.extract()), atol=1e-4, rtol=1e-4)
    targets = json.loads((tmp_path / "served" / "config.json").read_text())["quantization_config"]["config_groups"]
    assert len(targets["group_0"]["targets"]) == 17  # of 21 projections, without q, k, v and o of a layer


def test_a_folder_of_integers_leaves_from_the_command_line_whatever_its_layers_bits(tmp_path) -> None:
    model = tiny_llama(hidden_size=128, num_attention_heads=4, head_dim=32, intermediate_size=128)
    kinds = {"0": GridSettings(8, 32), "1": GridSettings(4, 64), "2": None}
    quantization = rounded(model, lambda name: kinds[name.split(".")[1]])
    save_quantized(model, tiny_tokenizer(), quantization, tmp_path / "compressed")
    arguments = ["export", str(tmp_path / "compressed"), "--format", "vllm", "--to", str(tmp_path / "served")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("compressed", "served"))
    assert set(first) == set(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_saved_folder_leaves_from_the_command_line(tmp_path) -> None:
    supernet = elastic(tiny_llama())
    configuration = dict(supernet.largest.configuration) | {"layers.1.attention.keep": 0}
    supernet.subnetwork(configuration).save_pretrained(tmp_path / "compressed")
    (tmp_path / "texts.txt").write_text("the water on\na bird\n")
    arguments = ["export", str(tmp_path / "compressed"), "--format", "vllm", "--to", str(tmp_path / "served"),
                 "--texts", str(tmp_path / "texts.txt")]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "architecture DeciLMForCausalLM" in done.output
    require_rules(tmp_path / "served")
