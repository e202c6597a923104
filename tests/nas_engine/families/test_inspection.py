"""Models that no family describes: those like Llama are exact too, and whatever differs is refused by name."""

import warnings

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from nas_engine.errors import FamilyError, NasEngineWarning
from nas_engine.families.descriptions import ADMITTED
from nas_engine.families.plain import require_plain
from nas_engine.supernet import SuperNetwork
from tests.supernets import CALIBRATION, EVERY_DIMENSION, TOKENS, logits, random_adapters, supernetwork
from tests.tiny import seeded

LIKE_LLAMA = {
    "SeedOss": {},  # biases of queries, keys and values
    "Helium": {},  # another order of rotated channels
    "Gemma": {},  # scaled embeddings, norms around 1
    "HunYuanDenseV1": {},  # norms of queries and keys
}
UNLIKE = {
    "a residual that is scaled": (
        "Granite",
        {"residual_multiplier": 0.5},
        "what the MLP of layer 0 reads is something else",
    ),
    "blocks side by side": ("Cohere", {}, "layer 0 has input_layernorm, mlp, self_attn where"),
    "norms of all heads together": ("Olmo2", {}, "layer 0 has .*post_feedforward_layernorm"),
    "no gate": ("Arcee", {}, r"layers.0.mlp.gate_proj is not there"),
    "layers that see a window": (
        "Ministral",
        {"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
        r"layers.1.self_attn.\w+ is",
    ),
    "layers elsewhere": ("GPTNeoX", {}, "no language model with its layers in model.layers"),
}


def tiny(name: str, **config):
    architecture = getattr(transformers, f"{name}ForCausalLM")
    return seeded(architecture, getattr(transformers, f"{name}Config"), 0, {"head_dim": 8} | config)


@pytest.fixture(autouse=True)
def _nothing_admitted() -> None:
    ADMITTED.clear()


@pytest.fixture(
    params=[pytest.param(name, marks=() if i < 1 else pytest.mark.slow) for i, name in enumerate(LIKE_LLAMA)]
)
def ordered(request) -> tuple[torch.Tensor, SuperNetwork]:
    """What the original computes, and a trained super-network over it."""
    model = tiny(request.param, **LIKE_LLAMA[request.param])
    before = logits(model)
    said = "no family describes models of type .* by inspection this one is like Llama"
    with pytest.warns(NasEngineWarning, match=said):  # which a job shows, where libraries' go to a file
        supernet = supernetwork(model, EVERY_DIMENSION)
    torch.testing.assert_close(logits(supernet.largest.model), before)
    random_adapters(supernet).order_by_importance(CALIBRATION)
    return before, supernet


def test_model_like_llama_is_exact_extracted_saved_and_generating(ordered, tmp_path) -> None:
    _, supernet = ordered
    space = supernet.space
    smallest, largest = space.configuration(space.smallest), space.configuration(space.largest)
    mixed = ("layers.0.attention.heads", "layers.0.mlp.width", "layers.1.attention.keep", "layers.2.mlp.keep")
    layers = ("layers.1.attention.keep", "layers.1.mlp.keep")
    even = [name for name in space.names if name.endswith(("heads", "width"))]
    for number, genes in enumerate((mixed, layers, even)):
        subnet = supernet.subnetwork(largest | {gene: smallest[gene] for gene in genes})
        expected, extracted = logits(subnet.model), subnet.extract()
        torch.testing.assert_close(logits(extracted), expected, atol=1e-4, rtol=1e-4)
        assert sum(p.numel() for p in extracted.parameters()) == subnet.parameter_count()
        subnet.save_pretrained(tmp_path / str(number))
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / str(number), trust_remote_code=True)
        torch.testing.assert_close(logits(loaded), expected, atol=1e-4, rtol=1e-4)
        generate = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 1}
        got = loaded.generate(TOKENS[:, :6], **generate)
        assert torch.equal(got, subnet.model.generate(TOKENS[:, :6], **generate))
        assert torch.equal(got, loaded.generate(TOKENS[:, :6], use_cache=False, **generate))


def test_saved_supernetwork_is_inspected_where_it_is_loaded(tmp_path) -> None:
    with pytest.warns(UserWarning, match="by inspection"):
        supernet = random_adapters(supernetwork(tiny("Helium"), EVERY_DIMENSION))
    supernet.order_by_importance(CALIBRATION)
    supernet.save(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert torch.equal(logits(SuperNetwork.load(tmp_path).largest.model), logits(supernet.largest.model))
    ADMITTED.clear()  # another process
    with pytest.warns(UserWarning, match="by inspection"):
        loaded = SuperNetwork.load(tmp_path)
    assert torch.equal(logits(loaded.largest.model), logits(supernet.largest.model))


@pytest.mark.parametrize("what", UNLIKE)
def test_model_that_differs_from_llama_is_refused(what: str) -> None:
    name, config, message = UNLIKE[what]
    with pytest.raises(FamilyError, match=f"supported are bert, .* which this one is not: .*{message}"):
        supernetwork(tiny(name, **config), EVERY_DIMENSION)


def test_inspection_leaves_the_model_as_it_was() -> None:
    model = tiny("Helium")
    modules = {path: id(module) for path, module in model.named_modules()}
    before = logits(model)
    with pytest.warns(UserWarning, match="by inspection"):
        require_plain(model)
    assert {path: id(module) for path, module in model.named_modules()} == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(logits(model), before)
