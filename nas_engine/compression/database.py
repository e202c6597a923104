"""Every projection at every level of bits and density, computed once and kept on disk for sub-networks to switch.

One safetensors file a layer, read through a memory map; what was read lately stays in memory within a budget (EvoPress,
arXiv 2410.14649, section 3, keeps such a database). It is written by `nas_engine.compression.database_building`.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from evaluators.documents import read_document
from nas_engine.compression.grid import Grid, GridSettings
from nas_engine.errors import CompressionError
from search_spaces import ModuleName, SpaceError

FORMAT = 1
FULL_BITS = 16
BUDGET_BYTES = 2**30


@dataclass(frozen=True, order=True)
class Level:
    """What a projection is compressed to.

    Args:
        bits: of a weight: 16 for half precision, 8 or 4 for a grid.
        density: fraction of the weights that is kept.
    """

    bits: int = FULL_BITS
    density: float = 1.0

    @property
    def key(self) -> str:
        """Its name on disk."""
        return f"{self.bits}/{self.density:g}"


DENSE = Level()
"""The original weight, in its own type."""


@dataclass(frozen=True)
class _Grid:
    group_size: int
    symmetric: bool


@dataclass(frozen=True)
class Description:
    """What ``database.json`` holds."""

    format: int
    base_fingerprint: str
    levels: list[Level]
    grid: _Grid
    refit: bool
    modules: list[str]


@dataclass(frozen=True)
class Version:
    """A projection at a level.

    Args:
        weight: shape (outputs, inputs); where there is a grid, as it was before it was rounded.
        grid: None at 16 bits.
    """

    weight: Tensor
    grid: Grid | None


class LayerDatabase:
    """The versions that `build_database` wrote.

    Args:
        folder: holds `database.json` and a file a layer.
        budget_bytes: of versions kept in memory; the least recently used go first.

    Attributes:
        levels: that every projection has.
        modules: the projections, by the space's names, such as ``layers.3.up``.
        group_size: inputs that share a scale.
        base_fingerprint: of the model that the versions are of.
        identity: text that differs where model, levels or grids do.

    Raises:
        CompressionError: the folder holds no complete database.
    """

    def __init__(self, folder: str | Path, budget_bytes: int = BUDGET_BYTES) -> None:
        self.folder = Path(folder)
        file = self.folder / "database.json"
        described = read_document(file, Description, CompressionError, f"{folder} holds no database of layers")
        if described.format != FORMAT:
            raise CompressionError(f"{folder} has the format {described.format}; this version reads {FORMAT}.")
        try:
            layers = {ModuleName.parse(module).layer for module in described.modules}
        except SpaceError as error:
            raise CompressionError(f"{file}: {error}") from error
        self.levels = tuple(described.levels)
        self.modules: tuple[str, ...] = tuple(described.modules)
        self.base_fingerprint = described.base_fingerprint
        self.identity = json.dumps(asdict(described), sort_keys=True)
        self._grid = GridSettings(8, described.grid.group_size, described.grid.symmetric)
        self.group_size = self._grid.group_size
        self.budget_bytes = budget_bytes
        self._files: dict[int, Any] = {}
        self._kept: OrderedDict[tuple[str, Level, torch.dtype, torch.device], Version] = OrderedDict()
        missing = [layer for layer in sorted(layers) if not layer_file(self.folder, layer).is_file()]
        if missing:
            raise CompressionError(
                f"{folder} lacks layers {', '.join(map(str, missing))}; call build_database again to go on."
            )

    def version(
        self,
        module: str,
        level: Level,
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008  # a constant
    ) -> Version:
        """The projection `module` at `level`, in `dtype` on `device`; not to be written to.

        Raises:
            CompressionError: the database has no such version.
        """
        key = (module, level, dtype, device)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if module not in self.modules or level not in self.levels:
            raise CompressionError(
                f"{self.folder} has no {module} at {level.bits} bits and density {level.density:g}; its levels are "
                f"{', '.join(known.key for known in self.levels)}."
            )
        version = self._read(module, level, dtype, device)
        self._kept[key] = version
        while len(self._kept) > 1 and self.kept_bytes > self.budget_bytes:
            self._kept.popitem(last=False)
        return version

    @property
    def kept_bytes(self) -> int:
        """Bytes of the weights kept in memory, wherever that is."""
        return sum(version.weight.nbytes for version in self._kept.values())

    def _read(self, module: str, level: Level, dtype: torch.dtype, device: torch.device) -> Version:
        index, projection = ModuleName.parse(module)
        if index not in self._files:
            try:
                self._files[index] = safe_open(layer_file(self.folder, index), framework="pt")
            except (OSError, SafetensorError) as error:
                raise self._damaged(module, error) from error
        file, prefix = self._files[index], f"{projection}/{level.key}"
        names = ("weight",) if level.bits == FULL_BITS else ("weight", "scale", "zero_point")
        try:
            weight, *grid = (file.get_tensor(f"{prefix}/{name}") for name in names)
        except SafetensorError as error:
            raise self._damaged(module, error) from error
        if weight.ndim != 2 or not weight.is_floating_point():
            raise self._damaged(module, f"{prefix}/weight is no matrix of numbers")
        weight = weight.to(device, dtype)
        if level.bits == FULL_BITS:
            return Version(weight, None)
        settings, (scale, zero_point) = GridSettings(level.bits, self._grid.group_size, self._grid.symmetric), grid
        groups = (weight.shape[0], weight.shape[1] // settings.group_size)
        if scale.shape != groups or zero_point.shape != groups or zero_point.dtype != torch.int8:
            raise self._damaged(module, f"{prefix} has no scale and zero point a group")
        return Version(weight, Grid(settings, scale.to(dtype), zero_point).to(device))

    def _damaged(self, module: str, what: object) -> CompressionError:
        file = layer_file(self.folder, ModuleName.parse(module).layer)
        return CompressionError(f"{file} is damaged: {what}. Delete it, and call build_database again to go on.")


def layer_file(folder: Path, layer: int) -> Path:
    """Where the versions of a layer are."""
    return folder / f"layers.{layer}.safetensors"
