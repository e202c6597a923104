"""Attention and MLP blocks that may be left out, each by its own gene (EvoPress, arXiv 2410.14649, section 4.1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from search_spaces.choice import Choice
from search_spaces.errors import SpaceError
from search_spaces.module_name import ModuleName
from search_spaces.shape import ModelShape
from search_spaces.template import SpaceTemplate

BLOCKS = ("attention", "mlp")


@dataclass(frozen=True)
class LayerSkip:
    """See `layer_skip`."""

    blocks: tuple[str, ...]
    layers: tuple[int, ...] | None
    skip_missing: bool = False

    def choices(self, shape: ModelShape) -> list[Choice]:
        """One choice for each block that may be skipped: 0 leaves it out, 1 keeps it."""
        if self.skip_missing and "layer_skip" in shape.limits.whole:
            return []
        layers = range(shape.layers) if self.layers is None else [_index(i, shape.layers) for i in self.layers]
        names = [str(ModuleName(layer, block)) for layer in sorted(set(layers)) for block in self.blocks]
        if self.layers is None:  # layers that are named are meant
            names = [name for name in names if name not in shape.limits.kept]
        return [Choice(f"{name}.keep", (0, 1), (name,), "layer_skip") for name in names]


def layer_skip(
    blocks: Iterable[str] = BLOCKS, layers: Iterable[int] | None = None, skip_missing: bool = False
) -> SpaceTemplate:
    """Genes that keep (1) or leave out (0) whole blocks; a layer that loses both is no longer there.

    Args:
        blocks: ``"attention"``, ``"mlp"`` or both.
        layers: the layers that may be cut, negative ones counted from the last; None takes all. The first and the
            last ones are seldom worth cutting: ``range(1, 29)`` of 30.
        skip_missing: leave no block out where the target cannot run that, instead of refusing it.

    Raises:
        SpaceError: an unknown block; when bound, a layer that the model does not have.
    """
    given = tuple(dict.fromkeys(blocks))
    unknown = [block for block in given if block not in BLOCKS]
    if not given or unknown:
        raise SpaceError(f"blocks are {given}; choose from {', '.join(BLOCKS)}.")
    return SpaceTemplate((LayerSkip(given, None if layers is None else tuple(layers), skip_missing),))


def _index(layer: int, layers: int) -> int:
    if not -layers <= layer < layers:
        raise SpaceError(f"layers names layer {layer}, but this model has {layers}; give 0 to {layers - 1}.")
    return layer % layers
