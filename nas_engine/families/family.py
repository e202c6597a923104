"""Which module of a transformer is which projection. A family is data: adding one needs no forward code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from transformers import PreTrainedConfig, PreTrainedModel

from nas_engine.errors import FamilyError
from search_spaces import ModelShape, ModuleName

# Grouped products of experts, as transformers computes them, want rows of whole 16 bytes: 8 channels in half precision.
_GROUPED_WIDTHS = 8
# The projections that a fused module holds, in the order of its outputs; any other module holds the one it is named by.
_FUSED = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}


@dataclass(frozen=True)
class Bypass:
    """What stands in for a module of a block that is left out.

    Args:
        module: its path inside the layer.
        gives: what it returns: zeros like its first argument (where the layer adds the residual afterwards), its
            first argument, or its second one (where the module itself adds the residual, given second).
        pair: it returns ``(that, None)``, as attention modules do with their weights.
    """

    module: str
    gives: Literal["zeros", "first", "second"] = "zeros"
    pair: bool = False


@dataclass(frozen=True)
class HeadBias:
    """An argument of an attention module with one slice for every head, such as ALiBi's.

    Args:
        module: the path of the attention module inside the layer.
        argument: the keyword, a tensor of shape (heads, …) or (batch * heads, …).
    """

    module: str
    argument: str


@dataclass(frozen=True)
class StackedExperts:
    """Where a layer that is a mixture of experts keeps them: stacked, as transformers does since version 5.

    The experts' module has ``gate_up_proj`` of shape (experts, 2 * width, hidden) and ``down_proj`` of shape (experts,
    hidden, width), the router's a ``weight`` of shape (experts, hidden).

    Args:
        block: path inside a layer of the module that holds both.
        experts: of the experts, inside `block`.
        router: of the router, inside `block`.
        count_key: the configuration's key for the number of experts.
    """

    block: str = "mlp"
    experts: str = "experts"
    router: str = "gate"
    count_key: str = "num_local_experts"


@dataclass(frozen=True)
class Family:
    """Where a transformer keeps its layers, their projections and what must change with their sizes.

    Args:
        model_type: the `model_type` of its Hugging Face configuration.
        layers: path of the list of layers inside the model.
        projections: path inside a layer of each module that holds projections: q, k, v, o, gate, up, down, or fused
            ``qkv`` and ``gate_up``, whose outputs are their projections' one after the other.
        interleaved: the outputs of ``qkv`` go head by head instead, each head's query, key and value side by side.
        head_attributes: attributes that hold sizes of attention, by path inside the layer, with what they hold:
            query ``heads``, ``kv_heads`` or ``channels`` (query heads times head size).
        head_bias: the argument of attention that has a slice for every head.
        attention: what stands in for the modules of attention that is left out.
        mlp: the same of the MLP.
        norms_after: path inside a layer of the norm through which a block, ``attention`` or ``mlp``, goes into the
            residual stream.
        norm_last: a layer's output is a norm's, and not a sum with what its last projection gives.
        width_key: the configuration's key for the intermediate size; None where the architecture fixes it.
        stock_heads: the stock architecture can be built with fewer heads than hidden size over head size.
        head: modules that are new for each task, and so train whole beside the adapters.
        experts: where layers are mixtures of experts, whose projections are not those of `projections`.
        hybrid: attention differs between layers, or is something else in some: none of it is elastic or left out.
        granted: values that the configuration must have for all this to be true.
        layer_keys: the configuration's keys for lists with an entry for every layer.
    """

    model_type: str
    layers: str = "model.layers"
    projections: Mapping[str, str] = field(
        default_factory=lambda: {
            "q": "self_attn.q_proj",
            "k": "self_attn.k_proj",
            "v": "self_attn.v_proj",
            "o": "self_attn.o_proj",
            "gate": "mlp.gate_proj",
            "up": "mlp.up_proj",
            "down": "mlp.down_proj",
        }
    )
    interleaved: bool = False
    head_attributes: Mapping[str, Literal["heads", "kv_heads", "channels"]] = field(default_factory=dict)
    head_bias: HeadBias | None = None
    attention: tuple[Bypass, ...] = (Bypass("self_attn", pair=True),)
    mlp: tuple[Bypass, ...] = (Bypass("mlp"),)
    norms_after: Mapping[str, str] = field(default_factory=dict)
    norm_last: bool = False
    width_key: str | None = "intermediate_size"
    stock_heads: bool = True
    head: tuple[str, ...] = ()
    layer_keys: tuple[str, ...] = ("layer_types",)
    experts: StackedExperts | None = None
    hybrid: bool = False
    granted: Mapping[str, object] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether `projections` are all matrices of a layer."""
        return self.experts is None and not self.hybrid

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks of a layer that may be left out."""
        return ("mlp",) if self.hybrid else ("attention", "mlp")

    def path(self, module: str) -> str:
        """The path in the model of a space's module, such as ``layers.3.up``."""
        layer, name = ModuleName.parse(module)
        return f"{self.layers}.{layer}.{self.projections[name]}"

    def held(self, module: str) -> tuple[str, ...]:
        """The projections that a layer's module holds: ``("q", "k", "v")`` for ``qkv``."""
        return _FUSED.get(module, (module,))

    def shape(self, model: PreTrainedModel) -> ModelShape:
        """What a search space needs to know of `model`, which is not yet elastic."""
        layers = list(model.get_submodule(self.layers).children())
        heads, kv_heads, _ = (0, 0, 0) if self.hybrid else attention_sizes(model.config)
        projections = {projection: module for module in self.projections for projection in self.held(module)}
        known = (heads,) * len(layers) if heads else (), (kv_heads,) * len(layers) if heads else (), projections
        if self.experts is None:
            downs = (layer.get_submodule(self.projections["down"]) for layer in layers)
            return ModelShape(tuple(inputs_of(down) for down in downs), *known)
        path = f"{self.experts.block}.{self.experts.experts}.down_proj"
        stacks = [layer.get_parameter(path) for layer in layers]
        return ModelShape(
            tuple(stack.shape[2] for stack in stacks),
            *known,
            experts=tuple(stack.shape[0] for stack in stacks),
            experts_per_token=model.config.num_experts_per_tok,
            width_multiple=_GROUPED_WIDTHS,
        )


def attention_sizes(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Query heads, KV heads and head size of the attention that `config` describes."""
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return heads, getattr(config, "num_key_value_heads", None) or heads, head_size


def inputs_of(linear: object) -> int:
    """The inputs of a linear layer or a GPT-2 style Conv1D, which keeps its weight the other way round."""
    return int(linear.in_features if hasattr(linear, "in_features") else linear.nx)  # type: ignore[attr-defined]


_PHI3 = Family(
    "phi3",
    projections={
        "qkv": "self_attn.qkv_proj",
        "o": "self_attn.o_proj",
        "gate_up": "mlp.gate_up_proj",
        "down": "mlp.down_proj",
    },
    head_attributes={"self_attn.config.num_attention_heads": "heads", "self_attn.num_key_value_heads": "kv_heads"},
)
_GPT2 = Family(
    "gpt2",
    layers="transformer.h",
    projections={"qkv": "attn.c_attn", "o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"},
    head_attributes={"attn.num_heads": "heads", "attn.split_size": "channels"},
    attention=(Bypass("attn", pair=True),),
    width_key="n_inner",
    stock_heads=False,
)
_OPT = Family(
    "opt",
    layers="model.decoder.layers",
    projections={
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.out_proj",
        "up": "fc1",
        "down": "fc2",
    },
    head_attributes={"self_attn.num_heads": "heads"},
    mlp=(Bypass("fc1", "first"), Bypass("fc2")),
    width_key="ffn_dim",
    stock_heads=False,
)
_BLOOM = Family(
    "bloom",
    layers="transformer.h",
    projections={
        "qkv": "self_attention.query_key_value",
        "o": "self_attention.dense",
        "up": "mlp.dense_h_to_4h",
        "down": "mlp.dense_4h_to_h",
    },
    interleaved=True,
    head_attributes={"self_attention.num_heads": "heads"},
    head_bias=HeadBias("self_attention", "alibi"),
    attention=(Bypass("self_attention", "second", pair=True),),
    mlp=(Bypass("mlp", "second"),),
    width_key=None,
    stock_heads=False,
)
_MPT = Family(
    "mpt",
    layers="transformer.blocks",
    projections={"qkv": "attn.Wqkv", "o": "attn.out_proj", "up": "ffn.up_proj", "down": "ffn.down_proj"},
    head_attributes={"attn.n_heads": "heads"},
    head_bias=HeadBias("attn", "position_bias"),
    attention=(Bypass("attn", pair=True),),
    mlp=(Bypass("ffn", "second"),),
    width_key=None,
    stock_heads=False,
)
_BERT = Family(
    "bert",
    layers="bert.encoder.layer",
    projections={
        "q": "attention.self.query",
        "k": "attention.self.key",
        "v": "attention.self.value",
        "o": "attention.output.dense",
        "up": "intermediate.dense",
        "down": "output.dense",
    },
    attention=(Bypass("attention", "first", pair=True),),
    mlp=(Bypass("intermediate", "first"), Bypass("output", "second")),
    norm_last=True,
    stock_heads=False,
    head=("classifier",),
)
_AFTER = {"attention": "post_attention_layernorm", "mlp": "post_feedforward_layernorm"}
_GEMMAS = tuple(Family(name, norms_after=_AFTER, norm_last=True) for name in ("gemma2", "gemma3_text"))
_SMOLLM3 = Family("smollm3", layer_keys=("layer_types", "no_rope_layers"))  # every fourth layer rotates nothing
_ATTENTION = {name: f"self_attn.{name}_proj" for name in ("q", "k", "v", "o")}
_MIXTURES = (
    Family("mixtral", projections=_ATTENTION, experts=StackedExperts()),
    Family("qwen3_moe", projections=_ATTENTION, experts=StackedExperts(), width_key="moe_intermediate_size"),
)
_MLP = {name: f"mlp.{name}_proj" for name in ("gate", "up", "down")}
_QWEN3_5 = Family("qwen3_5_text", projections=_MLP, attention=(), hybrid=True)
_GEMMA4 = Family(  # heads of two sizes
    "gemma4_text",
    projections=_MLP,
    attention=(),
    norms_after={"mlp": "post_feedforward_layernorm"},
    norm_last=True,
    hybrid=True,
    granted={"enable_moe_block": False},  # experts beside the MLP
)
_LIKE_LLAMA = tuple(map(Family, ("llama", "mistral", "qwen2", "qwen3")))
FAMILIES = {
    family.model_type: family
    for family in (
        _BERT,
        _BLOOM,
        _GEMMA4,
        _GPT2,
        _MPT,
        _OPT,
        _PHI3,
        _QWEN3_5,
        _SMOLLM3,
        *_GEMMAS,
        *_MIXTURES,
        *_LIKE_LLAMA,
    )
}


_ADMITTED: dict[str, Family] = {}  # by inspection, in this process


def is_admitted(model_type: str) -> bool:
    """Whether a model of this type was found to be like Llama in this process."""
    return model_type in _ADMITTED


def admit(family: Family) -> Family:
    """Make `family`, which was found by inspection, that of its type for the rest of the process."""
    _ADMITTED[family.model_type] = family
    return family


def family_of(model: PreTrainedModel) -> Family:
    """The family of `model`.

    Raises:
        FamilyError: no family describes its `model_type`, and no model of it was admitted by inspection (see
            `nas_engine.families.plain.require_plain`); the supported ones are named.
    """
    model_type = model.config.model_type
    family = FAMILIES.get(model_type) or _ADMITTED.get(model_type)
    if family is None:
        raise FamilyError(
            f"models of type {model_type!r} are not supported; supported are {', '.join(sorted(FAMILIES))}. "
            "A new family is one description in nas_engine/families/family.py."
        )
    return family
