"""A space before it meets a model: dimensions that become genes once the layer count and the widths are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from search_spaces.choice import Choice
from search_spaces.errors import SpaceError
from search_spaces.narrowing import require_within
from search_spaces.shape import ModelShape
from search_spaces.space import SearchSpace


class Dimension(Protocol):
    """One thing that may vary, for whatever model comes."""

    def choices(self, shape: ModelShape) -> list[Choice]:
        """The genes of this dimension in a model of that shape."""
        ...


@dataclass(frozen=True)
class SpaceTemplate:
    """Dimensions joined by ``+``, to be bound to any model."""

    dimensions: tuple[Dimension, ...]

    def __add__(self, other: SpaceTemplate) -> SpaceTemplate:
        return SpaceTemplate(self.dimensions + other.dimensions)

    def bind(self, shape: ModelShape) -> SearchSpace:
        """The search space of a model of `shape`, its genes ordered from the first layer to the last.

        Layer order keeps genes that act together side by side, which is what crossover wants. Under the limits of a
        target, fractions become sizes that it can run, and layers or projections share genes where they have to.

        Raises:
            SpaceError: a dimension does not fit the model, two dimensions claim the same gene or module, or a size that
                is given as a whole number is none that the target can run.
        """
        choices = [choice for dimension in self.dimensions for choice in dimension.choices(shape)]
        owners: dict[tuple[str, str], str] = {}
        for choice in choices:
            for module in choice.modules:
                other = owners.setdefault((choice.dimension, module), choice.name)
                if other != choice.name:
                    raise SpaceError(
                        f"{choice.name} and {other} both set the {choice.dimension} of {module}; keep one."
                    )
        require_within(choices, shape)
        return SearchSpace.of(sorted(choices, key=lambda choice: choice.layer))


def layer_blocks(shape: ModelShape, layers_per_gene: int, dimension: str = "") -> list[tuple[str, range]]:
    """Consecutive layers that share one gene, each with its name: ``layers.3``, or ``layers.0-4``.

    Args:
        shape: of the model.
        layers_per_gene: how many; all, where the limits of `shape` want `dimension` alike in all layers.
        dimension: of the gene.

    Raises:
        SpaceError: `layers_per_gene` is not at least 1.
    """
    if layers_per_gene < 1:
        raise SpaceError(f"layers_per_gene is {layers_per_gene}; it must be at least 1.")
    layers = shape.layers
    if dimension in shape.limits.alike:
        layers_per_gene = layers
    blocks = [range(i, min(i + layers_per_gene, layers)) for i in range(0, layers, layers_per_gene)]
    return [(f"layers.{_span(block)}", block) for block in blocks]


def _span(block: range) -> str:
    return str(block[0]) if len(block) == 1 else f"{block[0]}-{block[-1]}"
