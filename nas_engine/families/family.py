"""What a description of a model family says: which module of a transformer is which projection. Data, and no code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from transformers import PreTrainedConfig, PreTrainedModel

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
