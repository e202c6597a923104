"""Every projection at every level of bits and density, computed once and kept on disk for sub-networks to switch.

One safetensors file a layer, read through a memory map; what was read lately stays in memory within a budget (EvoPress,
arXiv 2410.14649, section 3, keeps such a database). Each version is computed from what the dense model shows the layer,
since a search may put any version of the others before it.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from evaluators.documents import read_document
from evaluators.whole_file import replacing
from nas_engine.compression.calibration import CalibratedLayer, Hessians, calibrated_layers, require_complete
from nas_engine.compression.grid import Grid, GridSettings
from nas_engine.compression.kept_weights import refitted
from nas_engine.compression.quantization import require_unquantized
from nas_engine.compression.rounding import gptq
from nas_engine.compression.sparsification import matrix_of
from nas_engine.compression.sparsity import Unstructured, wanda_mask
from nas_engine.errors import CompressionError
from nas_engine.families.family import family_of
from nas_engine.families.fingerprint import base_fingerprint
from nas_engine.families.plain import require_plain
from nas_engine.progress import progress_bar
from nas_engine.texts.batches import Batch
from search_spaces import ModuleName, SpaceError

_FORMAT = 1
FULL_BITS = 16
_BUDGET_BYTES = 2**30


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
class _Description:
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

    def __init__(self, folder: str | Path, budget_bytes: int = _BUDGET_BYTES) -> None:
        self.folder = Path(folder)
        file = self.folder / "database.json"
        described = read_document(file, _Description, CompressionError, f"{folder} holds no database of layers")
        if described.format != _FORMAT:
            raise CompressionError(f"{folder} has the format {described.format}; this version reads {_FORMAT}.")
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
        missing = [layer for layer in sorted(layers) if not _layer_file(self.folder, layer).is_file()]
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
                self._files[index] = safe_open(_layer_file(self.folder, index), framework="pt")
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
        file = _layer_file(self.folder, ModuleName.parse(module).layer)
        return CompressionError(f"{file} is damaged: {what}. Delete it, and call build_database again to go on.")


def build_database(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    folder: str | Path,
    bits: Sequence[int] = (16, 8, 4),
    sparsities: Sequence[float] = (0.0, 0.25, 0.5),
    group_size: int = 64,
    symmetric: bool = False,
    refit: bool = False,
    budget_bytes: int = _BUDGET_BYTES,
    progress: bool = False,
) -> LayerDatabase:
    """Compute every projection of `model` at every level, by Wanda and GPTQ, and write it to `folder`.

    Interrupted, the same call goes on with the next layer. A model whose widths are to be searched is ordered first
    (`nas_engine.jobs.recipes.ordered`): versions are of channels in a fixed order, of which a sub-network takes a
    prefix.

    Args:
        model: of a known family; stays as it is.
        batches: calibration texts as `input_ids` and `attention_mask` of shape (rows, tokens).
        folder: is made.
        bits: of the levels: 16, 8, 4.
        sparsities: fractions of zeros of the levels.
        group_size: inputs that share a scale; prefixes of a projection's inputs must be whole groups.
        symmetric: no zero points.
        refit: whether kept weights make up for the zeros, as `nas_engine.compression.sparsification` has it.
        budget_bytes: as `LayerDatabase`.
        progress: show a bar.

    Raises:
        CompressionError: bits other than 16, 8 and 4, a sparsity out of range, a group size that does not divide, an
            empty calibration, a quantized model, or a folder with another database.
    """
    require_unquantized(model)
    require_plain(model)
    require_complete(model)
    unknown = [b for b in bits if b not in (FULL_BITS, 8, 4)]
    if unknown or not bits or not sparsities:
        raise CompressionError(f"bits are {tuple(bits)} and sparsities {tuple(sparsities)}; give 16, 8 or 4 bits.")
    levels = levels_of(bits, sparsities)
    grid = GridSettings(8, group_size, symmetric)
    folder = Path(folder)
    count = _describe(folder, model, levels, grid, refit)
    if all(_layer_file(folder, layer).is_file() for layer in range(count)):
        return LayerDatabase(folder, budget_bytes)
    with progress_bar("Writing versions of layers", count, enabled=progress) as bar:
        for layer in calibrated_layers(model, batches):
            file = _layer_file(folder, layer.index)
            for projection, linear in layer.projections.items():
                grid.require_dividing(matrix_of(linear).shape[1], layer.name(projection))
            if not file.exists():
                tensors = _versions(layer, levels, grid, refit)
                with replacing(file) as unfinished:
                    save_file(tensors, unfinished)
            bar.advance()
    return LayerDatabase(folder, budget_bytes)


def levels_of(bits: Sequence[int], sparsities: Sequence[float]) -> list[Level]:
    """Every level of these bits and zeros, the dense one among them, the largest first."""
    return sorted({DENSE} | {Level(b, density_of(s)) for b in bits for s in sparsities}, reverse=True)


def density_of(sparsity: float) -> float:
    """The fraction that is kept.

    Raises:
        CompressionError: `sparsity` is not from 0 to below 1.
    """
    return round(1.0 - Unstructured(sparsity).ratio, 6)


def _versions(layer: CalibratedLayer, levels: Sequence[Level], grid: GridSettings, refit: bool) -> dict[str, Tensor]:
    hessians = Hessians()
    layer.observe(hessians)
    tensors: dict[str, Tensor] = {}
    for projection, linear in layer.projections.items():
        weight, hessian = matrix_of(linear), hessians[projection]
        sparse = {d: _sparse(weight, hessian, d, refit) for d in {level.density for level in levels}}
        for level in levels:
            kept = sparse[level.density]
            prefix = f"{projection}/{level.key}"
            if level == DENSE:
                tensors[f"{prefix}/weight"] = weight.contiguous().clone()
            elif level.bits == FULL_BITS:
                tensors[f"{prefix}/weight"] = kept.half().contiguous()
            else:
                found = gptq(kept, hessian, GridSettings(level.bits, grid.group_size, grid.symmetric))
                tensors[f"{prefix}/weight"] = found.unrounded.half().contiguous()
                tensors[f"{prefix}/scale"] = found.grid.scale.half().contiguous()
                tensors[f"{prefix}/zero_point"] = found.grid.zero_point.contiguous()
    return tensors


def _sparse(weight: Tensor, hessian: Tensor, density: float, refit: bool) -> Tensor:
    keep = wanda_mask(weight, hessian.diagonal().sqrt(), Unstructured(1 - density))
    return refitted(weight, keep, hessian) if refit else weight * keep


def _describe(folder: Path, model: PreTrainedModel, levels: Sequence[Level], grid: GridSettings, refit: bool) -> int:
    """Write `database.json`; how many layers there are."""
    family = family_of(model)
    layers = range(len(list(model.get_submodule(family.layers).children())))
    description = {
        "format": _FORMAT,
        "base_fingerprint": base_fingerprint(model, family.head),
        "levels": [asdict(level) for level in levels],
        "grid": {"group_size": grid.group_size, "symmetric": grid.symmetric},
        "refit": refit,
        "modules": [str(ModuleName(i, name)) for i in layers for name in family.projections],
    }
    file = folder / "database.json"
    refusal = f"{folder} holds no database of layers"
    if file.exists():
        if asdict(read_document(file, _Description, CompressionError, refusal)) != description:
            raise CompressionError(f"{folder} holds a database of another model or other levels; use another folder.")
        return len(layers)
    with replacing(file) as unfinished:
        unfinished.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return len(layers)


def _layer_file(folder: Path, layer: int) -> Path:
    return folder / f"layers.{layer}.safetensors"
