"""The elastic intermediate size of MLP blocks (Mode B: LoNAS section 3)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from search_spaces.choice import Choice
from search_spaces.errors import SpaceError
from search_spaces.limits import Limits
from search_spaces.module_name import ModuleName
from search_spaces.shape import ModelShape
from search_spaces.template import SpaceTemplate, layer_blocks


@dataclass(frozen=True)
class MlpWidth:
    """See `mlp_width`."""

    widths: tuple[float, ...]
    multiple_of: int
    layers_per_gene: int

    def choices(self, shape: ModelShape) -> list[Choice]:
        """One choice for each block of layers, in channels."""
        return [self._choice(shape, *block) for block in layer_blocks(shape, self.layers_per_gene, "mlp_width")]

    def _choice(self, shape: ModelShape, prefix: str, block: range) -> Choice:
        sizes = {shape.intermediate_sizes[layer] for layer in block}
        if len(sizes) > 1:
            raise SpaceError(
                f"{prefix} have intermediate sizes {sorted(sizes)}; layers that share a gene must have equal ones."
            )
        full = sizes.pop()
        multiple_of = math.lcm(self.multiple_of, shape.width_multiple)
        channels = {_channels(width, full, multiple_of, prefix, shape.limits) for width in self.widths}
        modules = tuple(str(ModuleName(layer, name)) for layer in block for name in shape.mlp_modules)
        return Choice(f"{prefix}.mlp.width", tuple(sorted(channels)), modules, "mlp_width")


def mlp_width(widths: Iterable[float], multiple_of: int = 1, layers_per_gene: int = 1) -> SpaceTemplate:
    """Elastic intermediate sizes; of every expert alike where layers are mixtures of experts.

    Args:
        widths: fractions of the layer's own size (float, up to 1.0), or whole numbers of channels (int, above 1).
        multiple_of: sizes below the full one are rounded to the nearest multiple of this, and at least to one
            multiple; widths that round to the same size are one.
        layers_per_gene: how many consecutive layers share a gene.

    Raises:
        SpaceError: a width that is not positive, or a fraction above 1; when bound, a width larger than the layer.
    """
    given = tuple(widths)
    if not given or any(width <= 0 or (isinstance(width, float) and width > 1) for width in given):
        raise SpaceError(f"widths are {given}; give fractions in (0, 1.0] as floats, or whole numbers of channels.")
    if multiple_of < 1:
        raise SpaceError(f"multiple_of is {multiple_of}; it must be at least 1.")
    return SpaceTemplate((MlpWidth(given, multiple_of, layers_per_gene),))


def _channels(width: float, full: int, multiple_of: int, where: str, limits: Limits) -> int:
    if width > 1 and width > full:
        raise SpaceError(f"{where}.mlp.width is {width}, but this layer has {full} channels; give at most {full}.")
    if width in (1.0, full):
        return full
    if width <= 1:
        return limits.width(width * full, full, multiple_of)
    return min(full, max(multiple_of, round(width / multiple_of) * multiple_of))  # as given: the target may refuse it
