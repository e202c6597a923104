"""A causal language model as a function of tensors alone, cache included, which converters can trace."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.pytorch_utils import Conv1D

from evaluators.text.positions import switching_lengths
from nas_engine.errors import ExportError
from nas_engine.families.descriptions import family_of

# Those that trace; the others call kernels that no other runtime has.
_ATTENTION = ("eager", "sdpa")
_POSITIONS_BY_MASK = ("bloom", "mpt")  # they know no position ids
_EXAMPLE = (2, 5, 7)  # sequences, tokens, tokens before: no two alike, so that no size is taken for another


@dataclass(frozen=True)
class CachedLayer:
    """A layer with attention.

    Args:
        index: of the layer.
        heads: whose keys and values are kept.
        channels: of a key, and of a value.
    """

    index: int
    heads: int
    channels: tuple[int, int]


class Traceable(nn.Module):
    """`model` with keys and values as tensors.

    Args:
        model: in fp32, on the CPU, in evaluation mode.
        cached: its layers with attention; the others keep nothing.
        has_positions: it takes position ids.
        every: it gives logits of every new token, and not of the last one alone.
    """

    def __init__(
        self, model: PreTrainedModel, cached: Sequence[CachedLayer], has_positions: bool, every: bool = False
    ) -> None:
        super().__init__()
        self.model, self.cached, self.has_positions, self.every = model, tuple(cached), has_positions, every
        known = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._asked = {"logits_to_keep": 1} if known and not every else {}
        self.eval()  # an exporter puts the whole back into the mode in which this was

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *others: Any) -> tuple[Tensor, ...]:
        """Logits, shape (batch, tokens or 1, vocabulary), and keys and values of each cached layer with the new tokens
        behind the old ones.

        Args:
            input_ids: shape (batch, tokens).
            attention_mask: shape (batch, past + tokens).
            others: a list of keys and values of each cached layer, shape (batch, heads, past, channels), where there is
                one; position ids, shape (batch, tokens), where the model takes them.
        """
        past = others[0] if self.cached else []
        if past:
            nothing = past[0][:, :1, :, :1]
        else:
            before = attention_mask.shape[1] - input_ids.shape[1]
            nothing = torch.zeros(input_ids.shape[0], 1, before, 1)
        cache = _filled(past, nothing, self.cached, int(self.model.config.num_hidden_layers))
        positions = {"position_ids": others[-1]} if self.has_positions else {}
        given = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=True,
            **positions,
            **self._asked,
        )
        logits = given.logits if self.every or self._asked else given.logits[:, -1:]
        layers: Any = cache.layers
        kept = [layers[layer.index] for layer in self.cached]
        return logits, *(tensor for layer in kept for tensor in (layer.keys, layer.values))

    @property
    def input_names(self) -> list[str]:
        """In the order in which they are traced; as optimum calls them."""
        past = [f"past_key_values.{layer.index}.{kind}" for layer in self.cached for kind in ("key", "value")]
        return ["input_ids", "attention_mask", *past, *(["position_ids"] if self.has_positions else [])]

    @property
    def output_names(self) -> list[str]:
        """In the order in which they are traced; as optimum calls them."""
        present = [f"present.{layer.index}.{kind}" for layer in self.cached for kind in ("key", "value")]
        return ["logits", *present]

    @property
    def example(self) -> tuple[Any, ...]:
        """Inputs of `forward`."""
        batch, tokens, past = _EXAMPLE
        kept = [torch.zeros(batch, layer.heads, past, channels) for layer in self.cached for channels in layer.channels]
        mask = torch.ones(batch, past + tokens, dtype=torch.int64)
        positions = torch.arange(past, past + tokens).expand(batch, tokens).clone()
        ids = torch.zeros(batch, tokens, dtype=torch.int64)
        return (ids, mask, *([kept] if kept else []), *([positions] if self.has_positions else []))


def _filled(past: Sequence[Tensor], nothing: Tensor, cached: Sequence[CachedLayer], layers: int) -> DynamicCache:
    """A cache in which `past` is. Layers without attention count positions by `nothing`, of the same length."""
    pairs = {layer.index: (past[2 * i], past[2 * i + 1]) for i, layer in enumerate(cached)}
    cache = DynamicCache()
    for index in range(layers):
        layer = DynamicLayer()
        layer.keys, layer.values = pairs.get(index, (nothing, nothing))
        layer.dtype, layer.device, layer.is_initialized = nothing.dtype, nothing.device, True
        cache.layers.append(layer)
    return cache


def traceable(model: PreTrainedModel, every: bool = False) -> Traceable:
    """`model`, or a copy of it in fp32 on the CPU, to be traced; with logits of every token, or of the last.

    Raises:
        ExportError: it writes no text, or computes in a way that a trace does not hold.
    """
    family = family_of(model)
    require_dense(model)
    if model.get_output_embeddings() is None:
        raise ExportError(
            f"{type(model).__name__} classifies texts and writes none; models that generate are exported, others leave "
            "by save_pretrained."
        )
    attention = model.config._attn_implementation
    if attention not in _ATTENTION:
        raise ExportError(
            f"attention is computed by {attention!r}, which cannot be traced; load the model with "
            f"attn_implementation set to one of {', '.join(_ATTENTION)}."
        )
    _require_one_way(model)
    layers = list(model.get_submodule(family.layers).children())
    attending = [i for i, layer in enumerate(layers) if family.projections["o"] in dict(layer.named_modules())]
    model = _plain(model)
    return Traceable(model, _cached(model, attending), model.config.model_type not in _POSITIONS_BY_MASK, every)


def require_dense(model: PreTrainedModel) -> None:
    """Check that a graph can be traced of `model`: layers of attention, and one way for all tokens.

    Raises:
        ExportError: it is a mixture of experts, or a hybrid.
    """
    if not family_of(model).complete:
        raise ExportError(
            f"models of type {model.config.model_type!r} have experts, which are sent tokens each, or "
            "several kinds of attention; no graph is traced of them. They leave by save_pretrained."
        )


def _require_one_way(model: PreTrainedModel) -> None:
    """Check that long texts are computed as short ones: a trace holds one way."""
    found: dict[str, Any] = getattr(model.config, "rope_parameters", None) or {}
    kinds = [kind for kind in found.values() if isinstance(kind, dict)] or [found]
    if switching_lengths(model) or any(kind.get("rope_type") == "dynamic" for kind in kinds):
        names = ", ".join(sorted({str(kind.get("rope_type")) for kind in kinds}))
        raise ExportError(
            f"rotary embeddings of type {names} compute long texts in another way than short ones, and an exported "
            "graph holds one way; default, linear, llama3 and yarn leave."
        )


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """`model` in fp32 on the CPU; weights of GPT-2's Conv1D are kept as those of linear layers are."""
    if model.dtype != torch.float32 or model.device.type != "cpu" or model.training:
        model = copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval()  # type: ignore[call-arg]
    convolutions = [module for module in model.modules() if isinstance(module, Conv1D)]
    if not convolutions:
        return model
    shared: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    return copy.deepcopy(model, shared | {id(module): _linear(module) for module in convolutions})


def _linear(convolution: Conv1D) -> nn.Linear:
    linear = nn.Linear(convolution.nx, convolution.nf, device="meta")
    linear.weight = nn.Parameter(convolution.weight.detach().T.contiguous(), requires_grad=False)
    linear.bias = convolution.bias
    return linear


@torch.no_grad()
def _cached(model: PreTrainedModel, attending: Sequence[int]) -> list[CachedLayer]:
    """What each layer puts into a cache, seen by letting it."""
    cache = DynamicCache()
    model(input_ids=torch.zeros(1, 2, dtype=torch.int64), past_key_values=cache, use_cache=True)
    layers: Any = cache.layers
    return [
        CachedLayer(i, layers[i].keys.shape[1], (layers[i].keys.shape[3], layers[i].values.shape[3])) for i in attending
    ]


@contextmanager
def tracing() -> Iterator[None]:
    """Without gradients, and without warnings of each size that Python looks at; every export is checked instead."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
