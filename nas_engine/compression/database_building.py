"""A database of layers written, layer by layer, each version computed from what the dense model shows the layer,
since a search may put any version of the others before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from evaluators.documents import read_document
from evaluators.whole_file import replacing
from nas_engine.compression.calibration import CalibratedLayer, calibrated_layers, require_complete
from nas_engine.compression.database import (
    BUDGET_BYTES,
    DENSE,
    FORMAT,
    FULL_BITS,
    Description,
    LayerDatabase,
    Level,
    layer_file,
)
from nas_engine.compression.grid import GridSettings
from nas_engine.compression.kept_weights import refitted
from nas_engine.compression.observers import Hessians
from nas_engine.compression.quantization import require_unquantized
from nas_engine.compression.rounding import gptq
from nas_engine.compression.sparsification import matrix_of
from nas_engine.compression.sparsity import Unstructured, wanda_mask
from nas_engine.errors import CompressionError
from nas_engine.families.descriptions import family_of
from nas_engine.families.fingerprint import base_fingerprint
from nas_engine.families.plain import require_plain
from nas_engine.progress import progress_bar
from nas_engine.texts.batches import Batch
from search_spaces import ModuleName


def build_database(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    folder: str | Path,
    bits: Sequence[int] = (16, 8, 4),
    sparsities: Sequence[float] = (0.0, 0.25, 0.5),
    group_size: int = 64,
    symmetric: bool = False,
    refit: bool = False,
    budget_bytes: int = BUDGET_BYTES,
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
    if all(layer_file(folder, layer).is_file() for layer in range(count)):
        return LayerDatabase(folder, budget_bytes)
    with progress_bar("Writing versions of layers", count, enabled=progress) as bar:
        for layer in calibrated_layers(model, batches):
            file = layer_file(folder, layer.index)
            for projection, linear in layer.projections.items():
                grid.require_dividing(matrix_of(linear).shape[1], layer.name(projection))
            if not file.exists():
                tensors = _versions(layer, levels, grid, refit)
                with replacing(file) as unfinished:
                    save_file(tensors, unfinished)
                del tensors  # not held beside those of the next layer
            bar.advance()
    return LayerDatabase(folder, budget_bytes)


def levels_of(bits: Sequence[int], sparsities: Sequence[float]) -> list[Level]:
    """Every level of these bits and zeros, the dense one among them, the largest first."""
    return sorted({DENSE} | {Level(b, _density_of(s)) for b in bits for s in sparsities}, reverse=True)


def _density_of(sparsity: float) -> float:
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
        "format": FORMAT,
        "base_fingerprint": base_fingerprint(model, family.head),
        "levels": [asdict(level) for level in levels],
        "grid": {"group_size": grid.group_size, "symmetric": grid.symmetric},
        "refit": refit,
        "modules": [str(ModuleName(i, name)) for i in layers for name in family.projections],
    }
    file = folder / "database.json"
    refusal = f"{folder} holds no database of layers"
    if file.exists():
        if asdict(read_document(file, Description, CompressionError, refusal)) != description:
            raise CompressionError(f"{folder} holds a database of another model or other levels; use another folder.")
        return len(layers)
    with replacing(file) as unfinished:
        unfinished.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return len(layers)
