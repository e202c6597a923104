"""The elastic number of attention heads, whole KV groups at a time (LoNAS section 4 cuts BERT by whole heads)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from search_spaces.choice import Choice
from search_spaces.errors import SpaceError
from search_spaces.limits import Limits
from search_spaces.module_name import ModuleName
from search_spaces.shape import ModelShape
from search_spaces.template import SpaceTemplate, layer_blocks


@dataclass(frozen=True)
class AttentionHeads:
    """See `attention_heads`."""

    heads: tuple[float, ...]
    layers_per_gene: int

    def choices(self, shape: ModelShape) -> list[Choice]:
        """One choice for each block of layers, in query heads."""
        if not shape.heads:
            raise SpaceError("this model's attention is not elastic; leave attention_heads() out.")
        return [self._choice(shape, *block) for block in layer_blocks(shape, self.layers_per_gene, "attention_heads")]

    def _choice(self, shape: ModelShape, prefix: str, block: range) -> Choice:
        sizes = {(shape.heads[layer], shape.kv_heads[layer]) for layer in block}
        if len(sizes) > 1:
            raise SpaceError(
                f"{prefix} have {sorted(sizes)} query and KV heads; layers that share a gene must have equal ones."
            )
        full, kv_heads = sizes.pop()
        values = {_query_heads(value, full, full // kv_heads, prefix, shape.limits) for value in self.heads}
        modules = tuple(str(ModuleName(layer, name)) for layer in block for name in shape.modules(("q", "k", "v", "o")))
        return Choice(f"{prefix}.attention.heads", tuple(sorted(values)), modules, "attention_heads")


def attention_heads(heads: Iterable[float], layers_per_gene: int = 1) -> SpaceTemplate:
    """Elastic attention heads: query heads by whole KV groups, their KV heads and the output's inputs in step.

    Args:
        heads: whole numbers of query heads (int), or fractions of the layer's own (float, up to 1.0), rounded to the
            nearest whole number of KV groups and at least to one.
        layers_per_gene: how many consecutive layers share a gene.

    Raises:
        SpaceError: a value that is not positive; when bound, more heads than the layer has, or a number that splits a
            KV group.
    """
    given = tuple(heads)
    if not given or any(value <= 0 or (isinstance(value, float) and value > 1) for value in given):
        raise SpaceError(f"heads are {given}; give whole numbers of heads, or fractions in (0, 1.0] as floats.")
    return SpaceTemplate((AttentionHeads(given, layers_per_gene),))


def _query_heads(value: float, full: int, group: int, where: str, limits: Limits) -> int:
    if isinstance(value, float):
        return limits.query_heads(value * full, full, group)
    if value > full:
        raise SpaceError(f"{where}.attention.heads is {value}, but this layer has {full} heads; give at most {full}.")
    if value % group:
        raise SpaceError(
            f"{where}.attention.heads is {value}, which splits a KV group; {group} query heads share a KV head here, "
            f"so give a multiple of {group}."
        )
    return value
