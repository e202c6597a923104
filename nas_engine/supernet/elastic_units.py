"""The heads and channels whose number is elastic: which there are, how many may be read, and their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from nas_engine.supernet.dimensions import HEADS, WIDTH
from nas_engine.supernet.elastic import ElasticLinear
from nas_engine.supernet.layer import READERS, ElasticLayer, Unit
from nas_engine.supernet.ordering import input_norms, order_of
from nas_engine.texts.batches import Batch
from search_spaces import ModuleName, SearchSpace

_DIMENSIONS: dict[Unit, str] = {"heads": HEADS, "channels": WIDTH}


@dataclass(frozen=True)
class Units:
    """The heads or the channels of one layer.

    Args:
        layer: whose they are.
        unit: which of the two.
        sizes: how many inputs their reader may have in the space, all of them left out, ascending.
    """

    layer: ElasticLayer
    unit: Unit
    sizes: tuple[int, ...]

    @property
    def reader(self) -> ElasticLinear:
        """The projection that reads them."""
        return self.layer.linears[READERS[self.unit]]

    @property
    def inputs_each(self) -> int:
        """How many of the reader's inputs one of them is."""
        return self.reader.in_features // self.layer.units(self.unit)

    @property
    def ordered(self) -> bool:
        """Whether they are in an order of importance."""
        return self.unit in self.layer.orders


def elastic_units(layers: Sequence[ElasticLayer], space: SearchSpace) -> dict[str, Units]:
    """All that are elastic, by the projection that reads them, such as ``layers.3.down``."""
    found: dict[str, Units] = {}
    for layer in layers:
        for unit, dimension in _DIMENSIONS.items():
            module = str(ModuleName(layer.index, READERS[unit]))
            choices = [c for c in space.choices if c.dimension == dimension and module in c.modules]
            if choices:
                each = layer.head_size if unit == "heads" else 1
                sizes = {int(value) * each for choice in choices for value in choice.values}
                full = layer.linears[READERS[unit]].in_features
                found[module] = Units(layer, unit, tuple(sorted(size for size in sizes if size < full)))
    return found


def sort_by_norms(model: PreTrainedModel, units: Mapping[str, Units], batches: Iterable[Batch]) -> None:
    """Sort units by what they add to their layer's output; see `nas_engine.supernet.ordering`."""
    norms = input_norms(model, {module: of_layer.reader for module, of_layer in units.items()}, batches)
    for module, of_layer in units.items():
        layer, unit = of_layer.layer, of_layer.unit
        layer.permute(unit, order_of(layer.importance(unit, norms[module])))
