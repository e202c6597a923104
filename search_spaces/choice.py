"""One gene: a named, ordered choice of values and the modules that it moves together."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from search_spaces.errors import ConfigurationError, SpaceError
from search_spaces.module_name import ModuleName

Value = int | float


@dataclass(frozen=True)
class Choice:
    """A gene of a search space.

    Args:
        name: unique in its space, such as ``layers.3.mlp.width``.
        values: from small to large, without repeats; a genome holds an index into them.
        modules: what the value is applied to, as ``layers.<index>.<projection>``, or a layer's whole block, as
            ``layers.<index>.attention`` and ``layers.<index>.mlp``.
        dimension: what the value means there: ``lora_rank``, ``mlp_width``, ``attention_heads``, ``experts``,
            ``layer_skip``, ``weight_bits`` or ``density``.

    Raises:
        SpaceError: no value, values out of order, a value that is not a finite number, or a module's name that is none.
    """

    name: str
    values: tuple[Value, ...]
    modules: tuple[str, ...]
    dimension: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise SpaceError(f"a choice is named {self.name!r}; give it a name.")
        if not self.values:
            raise SpaceError(f"{self.name} has no values; give it at least one.")
        if not all(_is_number(v) for v in self.values):
            raise SpaceError(f"{self.name} has the values {self.values}; all must be finite numbers.")
        if any(a >= b for a, b in zip(self.values, self.values[1:], strict=False)):
            raise SpaceError(f"{self.name} has the values {self.values}; list them from small to large, each once.")
        for module in self.modules:
            ModuleName.parse(module)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def layer(self) -> int:
        """The first layer that the gene moves."""
        return min(self.layers)

    @property
    def layers(self) -> frozenset[int]:
        """The layers that the gene moves."""
        return frozenset(ModuleName.parse(module).layer for module in self.modules)

    @property
    def median_index(self) -> int:
        """The middle value's index; the larger of two, as the papers' heuristic takes it."""
        return len(self.values) // 2

    def index(self, value: Value) -> int:
        """The position of `value` among the choice's values.

        Raises:
            ConfigurationError: the choice does not offer `value`.
        """
        try:
            return self.values.index(value)
        except ValueError:
            raise ConfigurationError(
                f"{self.name} is {value!r}, which this space does not offer; "
                f"choose one of {', '.join(map(str, self.values))}."
            ) from None

    def to_json(self) -> dict[str, Any]:
        """The choice as JSON data."""
        return {
            "name": self.name,
            "values": list(self.values),
            "modules": list(self.modules),
            "dimension": self.dimension,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Choice:
        """The choice that `to_json` described.

        Raises:
            SpaceError: `data` is no choice.
        """
        keys = [f.name for f in fields(cls)]
        if not isinstance(data, Mapping) or set(data) != set(keys):
            raise SpaceError(f"a choice is an object with the keys {', '.join(keys)}, not {str(data)[:80]!r}.")
        name, values, modules, dimension = (data[key] for key in keys)
        if not isinstance(values, list) or not isinstance(modules, list):
            raise SpaceError(f"{str(name)[:80]} has the values {values!r} and modules {modules!r}; both are lists.")
        if not isinstance(dimension, str):
            raise SpaceError(f"{str(name)[:80]} has the dimension {dimension!r}; give its name.")
        return cls(name, tuple(values), tuple(modules), dimension)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
