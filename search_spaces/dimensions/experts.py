"""The elastic number of experts in layers that are mixtures of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from search_spaces.choice import Choice
from search_spaces.errors import SpaceError
from search_spaces.module_name import ModuleName
from search_spaces.shape import EXPERTS, ModelShape
from search_spaces.template import SpaceTemplate, layer_blocks


@dataclass(frozen=True)
class Experts:
    """See `experts`."""

    numbers: tuple[float, ...]
    layers_per_gene: int

    def choices(self, shape: ModelShape) -> list[Choice]:
        """One choice for each block of layers, in experts."""
        if not shape.experts:
            raise SpaceError("this model's layers are no mixtures of experts; leave experts() out.")
        return [self._choice(shape, *block) for block in layer_blocks(shape, self.layers_per_gene, "experts")]

    def _choice(self, shape: ModelShape, prefix: str, block: range) -> Choice:
        full = {shape.experts[layer] for layer in block}
        if len(full) > 1:
            raise SpaceError(f"{prefix} have {sorted(full)} experts; layers that share a gene must have equally many.")
        values = {_number(value, full.copy().pop(), shape.experts_per_token, prefix) for value in self.numbers}
        modules = tuple(str(ModuleName(layer, EXPERTS)) for layer in block)
        return Choice(f"{prefix}.mlp.experts", tuple(sorted(values)), modules, "experts")


def experts(numbers: Iterable[float], layers_per_gene: int = 1) -> SpaceTemplate:
    """Elastic numbers of experts; the router chooses among those that are left.

    Args:
        numbers: whole numbers of experts (int), or fractions of the layer's own (float, up to 1.0), rounded, and at
            least as many as a token is sent to.
        layers_per_gene: how many consecutive layers share a gene.

    Raises:
        SpaceError: a number that is not positive; when bound, a model without experts, more experts than the layer
            has, or fewer than a token is sent to.
    """
    given = tuple(numbers)
    if not given or any(number <= 0 or (isinstance(number, float) and number > 1) for number in given):
        raise SpaceError(f"experts are {given}; give whole numbers, or fractions in (0, 1.0] as floats.")
    return SpaceTemplate((Experts(given, layers_per_gene),))


def _number(number: float, full: int, fewest: int, where: str) -> int:
    if isinstance(number, float):
        return max(fewest, round(number * full))
    if not fewest <= number <= full:
        raise SpaceError(
            f"{where}.mlp.experts is {number}; this layer has {full} experts and sends a token to {fewest}, so give "
            f"{fewest} to {full}."
        )
    return number
