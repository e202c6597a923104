"""The bits that a layer's weights are stored in (EvoPress, arXiv 2410.14649, section 4.3, searches them by layer)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from search_spaces.choice import Choice, Value
from search_spaces.dimensions.lora_rank import Sharing, projection_groups
from search_spaces.errors import SpaceError
from search_spaces.module_name import ModuleName
from search_spaces.shape import PROJECTIONS, ModelShape
from search_spaces.template import SpaceTemplate, layer_blocks

_BITS = (16, 8, 4)


@dataclass(frozen=True)
class ByProjection:
    """A dimension with one value for each group of projections in each block of layers."""

    dimension: str
    values: tuple[Value, ...]
    groups: tuple[tuple[str, ...], ...]
    layers_per_gene: int

    def choices(self, shape: ModelShape) -> list[Choice]:
        """One choice for each group of projections in each block of layers; projections that a model lacks drop out."""
        groups = [tuple(name for name in group if name in shape.projections) for group in self._groups(shape)]
        whole = len(groups) == 1
        return [
            Choice(
                f"{prefix}.{self.dimension}" if whole else f"{prefix}.{'_'.join(group)}.{self.dimension}",
                self.values,
                tuple(str(ModuleName(layer, name)) for layer in block for name in shape.modules(group)),
                self.dimension,
            )
            for prefix, block in layer_blocks(shape, self.layers_per_gene, self.dimension)
            for group in groups
            if group
        ]

    def _groups(self, shape: ModelShape) -> tuple[tuple[str, ...], ...]:
        """Where every projection has a value of its own, those that the target stores alike share one."""
        fused = shape.limits.fused if self.dimension == "weight_bits" else ()
        if any(len(group) > 1 for group in self.groups):
            return self.groups
        names = [group[0] for group in self.groups]
        together = [tuple(name for name in names if name in group) for group in fused]
        alone = [(name,) for name in names if not any(name in group for group in together)]
        return tuple(group for group in (*together, *alone) if group)


def weight_bits(
    bits: Iterable[int],
    targets: Sequence[str] = PROJECTIONS,
    share: Sharing = "layer",
    layers_per_gene: int = 1,
) -> SpaceTemplate:
    """Elastic weight precision, switched from a database of precomputed versions.

    Args:
        bits: of 16, 8 and 4.
        targets: the projections that change; all by default, as far as a model has them.
        share: ``"layer"`` gives a layer one value, ``"each"`` one for every target, and a sequence of groups one for
            every group.
        layers_per_gene: how many consecutive layers share a gene.

    Raises:
        SpaceError: other bits, no target, or groups that do not cover the targets.
    """
    given = tuple(bits)
    if not given or any(value not in _BITS for value in given):
        raise SpaceError(f"bits are {given}; choose from {', '.join(map(str, _BITS))}.")
    groups = projection_groups(tuple(targets), share)
    return SpaceTemplate((ByProjection("weight_bits", tuple(sorted(set(given))), groups, layers_per_gene),))
