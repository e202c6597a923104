"""Whatever a space offers for a target can be written for it; what cannot be is refused before the first step."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from evaluators import NonZeroParameters, ParameterCount, Roofline, WeightBytes
from evaluators.cost.device_sheet import load_device
from nas_engine import SuperNetwork, search
from nas_engine.compression.grid import Grid, GridSettings
from nas_engine.deploy import TARGETS
from nas_engine.deploy.extracted_sizes import extracted_sizes
from nas_engine.deploy.gguf_architecture import architecture_of, built_as
from nas_engine.deploy.vllm_form import implementation_of
from nas_engine.deploy.vllm_quantization import require_servable
from nas_engine.errors import ExportError, NasEngineError, SearchError
from nas_engine.families.descriptions import family_of
from nas_engine.families.family import attention_sizes
from nas_engine.supernet.narrowing import bound_for
from search_spaces import (
    ModelShape,
    SpaceError,
    SpaceTemplate,
    attention_heads,
    layer_skip,
    lonas_space,
    lora_rank,
    mlp_width,
    sparsity,
    weight_bits,
)
from tests.supernets import supernetwork
from tests.tiny import (
    tiny_bloom,
    tiny_gemma2,
    tiny_gemma3,
    tiny_gpt2,
    tiny_llama,
    tiny_mistral,
    tiny_mpt,
    tiny_opt,
    tiny_phi3,
    tiny_qwen2,
    tiny_qwen3,
    tiny_tokenizer,
)

SIZES = {
    "hidden_size": 128,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "intermediate_size": 256,
}
MODELS = {
    "bloom": tiny_bloom,
    "gemma2": lambda: tiny_gemma2(query_pre_attn_scalar=16, **SIZES),
    "gemma3": lambda: tiny_gemma3(query_pre_attn_scalar=16, **SIZES),
    "gpt2": tiny_gpt2,
    "llama": lambda: tiny_llama(**SIZES),
    "mistral": lambda: tiny_mistral(**SIZES),
    "mistral with a window": lambda: tiny_mistral(sliding_window=8, **SIZES),
    "mpt": tiny_mpt,
    "opt": tiny_opt,
    "phi3": lambda: tiny_phi3(**SIZES),
    "qwen2": lambda: tiny_qwen2(**SIZES),
    "qwen3": lambda: tiny_qwen3(**SIZES),
    "tied qwen3": lambda: tiny_qwen3(tie_word_embeddings=True, **SIZES),
}
FRACTIONS = st.lists(st.sampled_from((0.1, 0.2, 0.35, 0.5, 0.6, 0.75, 0.9, 1.0)), min_size=2, max_size=4, unique=True)
PER_GENE = st.integers(1, 3)
WIDTHS = st.builds(mlp_width, FRACTIONS, st.sampled_from((1, 16, 48)), PER_GENE)
HEADS = st.builds(attention_heads, FRACTIONS, PER_GENE)
SKIPS = st.builds(
    layer_skip, st.sampled_from((("attention", "mlp"), ("attention",), ("mlp",))), st.none(), skip_missing=st.just(True)
)


def shape_of(model: PreTrainedModel) -> ModelShape:
    return family_of(model).shape(model)


def require_written_for_llama_cpp(model: PreTrainedModel) -> None:
    """What `export("gguf", weights="q8_0")` asks of sizes, tensors aside."""
    family, known = family_of(model), architecture_of(model.config)
    blocks = extracted_sizes(model, family)
    built_as(model, known, blocks)
    whole = attention_sizes(model.config)[2]
    for block in blocks:
        assert block.width % 32 == 0 or block.width == 48, "48 is the whole width of some"
        assert block.heads * whole % 32 == 0


WRITTEN = {"llama.cpp": require_written_for_llama_cpp, "vllm": implementation_of}


@pytest.mark.parametrize("target", WRITTEN)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_all_that_a_space_offers_for_a_target_can_be_written_for_it(target: str, data) -> None:
    known = [name for name in MODELS if name != {"llama.cpp": "opt", "vllm": "mpt"}[target]]
    name = data.draw(st.sampled_from(known), label="family")
    space = lora_rank((2,), ("q", "k", "v", "up", "down")) + data.draw(WIDTHS) + data.draw(HEADS) + data.draw(SKIPS)
    model = MODELS[name]()
    limits = TARGETS[target].limits(model)
    space = _bound(space, model, target)
    supernet = supernetwork(model, space)
    configuration = {gene.name: data.draw(st.sampled_from(gene.values)) for gene in space.genes}
    WRITTEN[target](supernet.subnetwork(configuration).extract())
    assert limits.target == target
    _bound(space, MODELS[name](), target)  # what was narrowed once is not narrowed again


def _bound(space, model, target):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bound_for(space, shape_of(model), model, target)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_bits_agree_where_vllm_multiplies_by_projections_as_one(data) -> None:
    model = tiny_llama(**SIZES)
    family = family_of(model)
    template = weight_bits((16, 8, 4), share=data.draw(st.sampled_from(("layer", "each"))))
    space = _bound(template, model, "vllm")
    configuration = {choice.name: data.draw(st.sampled_from(choice.values)) for choice in space.choices}
    bits = {module: configuration[choice.name] for choice in space.choices for module in choice.modules}
    assert len(bits) == 21
    nothing = torch.zeros(1, 1)
    grids = {family.path(m): Grid(GridSettings(b, 64), nothing, nothing) for m, b in bits.items() if b < 16}
    require_servable(model, family, grids)
    assert "layers.0.o.weight_bits" in configuration or len(space) == 3


def test_what_a_template_loses_to_a_target_is_said() -> None:
    with pytest.warns(UserWarning, match=r"for vllm the space is narrower.*mlp width \(128, 192, 256\) where"):
        SuperNetwork.from_pretrained(tiny_llama(**SIZES), lonas_space(), tiny_tokenizer(), target="vllm")
    with pytest.warns(UserWarning, match="layer skip by 5 genes where there were 6"):
        supernet = SuperNetwork.from_pretrained(tiny_llama(**SIZES), layer_skip(), tiny_tokenizer(), target="vllm")
    assert "layers.0.attention.keep" not in supernet.space.names
    with pytest.warns(UserWarning, match="attention heads by 1 genes where there were 3"):
        SuperNetwork.from_pretrained(tiny_llama(**SIZES), attention_heads((1.0, 0.5)), tiny_tokenizer(), target="vllm")


@pytest.mark.filterwarnings("error")
def test_targets_that_run_whatever_pytorch_runs_narrow_nothing() -> None:
    template = mlp_width((1.0, 0.3)) + attention_heads((1.0, 0.5)) + layer_skip()
    for make in (tiny_mpt, tiny_bloom, tiny_llama):
        shape = shape_of(make())
        for target in ("transformers", "openvino", "onnxruntime"):
            assert bound_for(template, shape, make(), target) == template.bind(shape)


@pytest.mark.parametrize(
    ("target", "model", "space", "message"),
    [
        ("tflite", tiny_llama, mlp_width((1.0,)), "target is 'tflite'; choose one of transformers, openvino,"),
        ("llama.cpp", tiny_opt, mlp_width((1.0,)), "models of type 'opt' are not written as GGUF"),
        ("vllm", tiny_mpt, mlp_width((1.0,)), "models of type 'mpt' are not written for vLLM"),
        ("llama.cpp", MODELS["llama"], mlp_width((256, 100)), "is 100; llama.cpp wants multiples of 32, such as 96"),
        ("vllm", MODELS["llama"], mlp_width((256, 96)), "width is 96; vllm wants multiples of 64, such as 128"),
        ("vllm", MODELS["llama"], attention_heads((8, 6)), "heads is 6; vllm can run 2, 4, 8 heads"),
        ("llama.cpp", MODELS["gemma2"], layer_skip(), "builds gemma2 with all its blocks; leave layer_skip"),
        ("vllm", MODELS["llama"], layer_skip(layers=(0, 1)), "vllm needs layers.0.attention; leave that layer out"),
        ("vllm", MODELS["qwen3"], layer_skip(("attention",), layers=(1,)), "vllm needs layers.1.attention"),
        ("vllm", MODELS["llama"], sparsity((0, 0.5)), "multiplies by zeros as by any number; leave sparsity"),
        ("vllm", MODELS["llama"], weight_bits((8, 4), share=(("q", "o", "down"), ("k", "v", "gate", "up"))),
         r"layer 0 gives q, k, v bits of their own.*share=\(\('q', 'k', 'v'\), \('gate', 'up'\), …\)"),
    ],
)  # fmt: skip
def test_values_that_are_given_and_cannot_run_are_refused_with_what_to_give(target, model, space, message) -> None:
    with pytest.raises(NasEngineError, match=message):
        _bound(space, model(), target)


def test_a_space_that_is_bound_is_checked_and_not_changed() -> None:
    model = MODELS["llama"]()
    good = (mlp_width((256, 128)) + attention_heads((8, 4), layers_per_gene=3)).bind(shape_of(model))
    assert bound_for(good, shape_of(model), model, "vllm") is good
    different = attention_heads((8, 4)).bind(shape_of(model))
    with pytest.raises(SpaceError, match="moves 1 of 3 layers, and vllm builds all.*layers_per_gene=3"):
        bound_for(different, shape_of(model), model, "vllm")
    assert bound_for(different, shape_of(model), model, "llama.cpp") is different


def test_zeros_that_buy_nothing_are_no_objective(tmp_path) -> None:
    space: SpaceTemplate = mlp_width((1.0, 0.5))
    supernet = SuperNetwork.from_pretrained(MODELS["llama"](), space, tiny_tokenizer(), target="vllm")
    supernet = SuperNetwork.load(supernet.save(tmp_path / "supernet"))
    assert supernet.target == "vllm"
    skipping = Roofline(
        load_device("a100-80gb-sxm").__class__(**{**vars(load_device("a100-80gb-sxm")), "skips_zeros": True})
    )
    for evaluator in (NonZeroParameters(), WeightBytes(sparse=True), skipping):
        with pytest.raises(SearchError, match=f"{evaluator.name} rewards zeros, which save nothing in vllm"):
            search(supernet, [ParameterCount(), evaluator], evaluations=2, progress=False)
        bounded = search(
            supernet, [ParameterCount(), evaluator], evaluations=2, objectives=["parameters"], progress=False
        )
        assert len(bounded) == 2
    assert len(search(supernet, [ParameterCount(), WeightBytes()], evaluations=2, progress=False)) == 2
    anywhere = supernetwork(tiny_llama(), space)
    assert len(search(anywhere, [NonZeroParameters()], evaluations=2, progress=False)) == 2


def test_models_that_a_target_cannot_run_are_refused_before_anything_is_changed() -> None:
    model = tiny_llama(hidden_act="gelu")
    before = [type(module) for module in model.modules()]
    with pytest.raises(ExportError, match="activation is 'gelu'"):
        SuperNetwork.from_pretrained(model, mlp_width((1.0, 0.5)), tiny_tokenizer(), target="llama.cpp")
    assert [type(module) for module in model.modules()] == before
