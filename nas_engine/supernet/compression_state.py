"""Which version of each projection is active, where a space varies their bits and zeros: switched from a database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from nas_engine.compression.database import DENSE, LayerDatabase, Level
from nas_engine.errors import CompressionError
from nas_engine.supernet.dimensions import BITS, DENSITY
from nas_engine.supernet.elastic import ElasticLinear
from search_spaces import Choice, SearchSpace, Value


class CompressionState:
    """The active level of every module that a space compresses; none where it compresses nothing.

    Args:
        space: of the super-network.
        database: its versions.
        base_fingerprint: of the super-network's base.
        adapter_mode: of its adapters.

    Raises:
        CompressionError: the space needs a database and another adapter mode, or the database is of another model, or
            lacks a level that the space offers.
    """

    def __init__(
        self, space: SearchSpace, database: LayerDatabase | None, base_fingerprint: str, adapter_mode: str
    ) -> None:
        offered: dict[str, dict[str, tuple[Value, ...]]] = {}
        for choice in space.choices:
            if choice.dimension in (BITS, DENSITY):
                for module in choice.modules:
                    offered.setdefault(module, {})[choice.dimension] = choice.values
        if offered and (database is None or adapter_mode != "quantized"):
            raise CompressionError(
                "a space of weight_bits or sparsity needs the versions of each layer and adapters that follow them; "
                "pass database=build_database(…) and adapter_mode='quantized'."
            )
        if database is not None and database.base_fingerprint != base_fingerprint:
            raise CompressionError(f"{database.folder} holds the layers of another model; build one for this.")
        for module, values in offered.items():
            assert database is not None
            _require_held(database, module, values)
        self._database = database
        self._active = dict.fromkeys(offered, DENSE)
        self._changed = set(offered)

    def __bool__(self) -> bool:
        return bool(self._active)

    def __getitem__(self, module: str) -> Level | None:
        """The active level of a module; None where the space does not compress it."""
        return self._active.get(module)

    def set(self, choice: Choice, value: Value) -> None:
        """Note the value of a gene; `switch` acts on it."""
        for module in choice.modules:
            level = self._active[module]
            self._active[module] = (
                replace(level, bits=int(value)) if choice.dimension == BITS else replace(level, density=float(value))
            )
            self._changed.add(module)

    def reset(self) -> None:
        """Note the dense level everywhere."""
        self._active = dict.fromkeys(self._active, DENSE)
        self._changed = set(self._active)

    def switch(self, linears: Mapping[str, ElasticLinear]) -> None:
        """Put the versions of all modules whose level has changed into their elastic layers."""
        for module in sorted(self._changed):
            assert self._database is not None
            linear = linears[module]
            weight = linear.weight
            version = self._database.version(module, self._active[module], weight.dtype, weight.device)
            linear.set_weight(version.weight, version.grid)
        self._changed.clear()


def offered_levels(space: SearchSpace) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The bits and the sparsities that some projection may have in `space`, whole ones among them."""
    bits, densities = {DENSE.bits}, {DENSE.density}
    for choice in space.choices:
        if choice.dimension == BITS:
            bits |= {int(value) for value in choice.values}
        elif choice.dimension == DENSITY:
            densities |= {float(value) for value in choice.values}
    return tuple(sorted(bits)), tuple(round(1.0 - density, 6) for density in sorted(densities, reverse=True))


def _require_held(database: LayerDatabase, module: str, offered: Mapping[str, tuple[Value, ...]]) -> None:
    for bits in offered.get(BITS, (DENSE.bits,)):
        for density in offered.get(DENSITY, (DENSE.density,)):
            if module not in database.modules or Level(int(bits), density) not in database.levels:
                raise CompressionError(
                    f"the space offers {module} at {bits} bits and density {density:g}, which {database.folder} does "
                    "not hold; build it with these bits and sparsities."
                )
