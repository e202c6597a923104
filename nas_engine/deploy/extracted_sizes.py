"""The sizes of an extracted model's layers, as its modules have them."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

from nas_engine.families.family import Family, attention_sizes, inputs_of
from nas_engine.families.modeling_subnetwork import BypassModule


@dataclass(frozen=True)
class ExtractedSizes:
    """The sizes of one layer that is left.

    Args:
        heads: query heads, 0 where attention is left out.
        kv_heads: KV heads, 0 where attention is left out.
        width: channels of the MLP, 0 where it is left out.
    """

    heads: int
    kv_heads: int
    width: int


def extracted_sizes(model: PreTrainedModel, family: Family) -> tuple[ExtractedSizes, ...]:
    """The sizes of every layer of `model`."""
    heads, kv_heads, size = attention_sizes(model.config)
    blocks = []
    for layer in model.get_submodule(family.layers).children():
        # OPT's MLP has no module of its own: what stands in for it stands where its projections were.
        modules = {path: module for path, module in layer.named_modules() if not isinstance(module, BypassModule)}
        o, down = (modules.get(family.projections[name]) for name in ("o", "down"))
        active = inputs_of(o) // size if o is not None else 0
        blocks.append(ExtractedSizes(active, active * kv_heads // heads, inputs_of(down) if down is not None else 0))
    return tuple(blocks)
