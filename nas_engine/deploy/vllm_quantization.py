"""What vLLM asks of integers in compressed-tensors' packed groups: fused projections that agree, and Marlin's sizes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from transformers import PreTrainedModel

from nas_engine.compression.grid import Grid
from nas_engine.compression.sparsification import matrix_of
from nas_engine.errors import ExportError, NasEngineWarning
from nas_engine.families.family import Family

FUSED = (("q", "k", "v"), ("gate", "up"))  # projections that vLLM multiplies by as one
GROUP_SIZES = (32, 64, 128)
OUTPUTS, INPUTS = 64, 128  # of a tile of Marlin, vLLM's kernel for integers


def require_servable(model: PreTrainedModel, family: Family, grids: Mapping[str, Grid]) -> None:
    """Check that vLLM loads these `grids`, by path in `model`, and say where its kernel would pad.

    Raises:
        ExportError: it would not; which projection, and what can be changed.
    """
    for path, grid in grids.items():
        kind = grid.settings
        if kind.group_size not in GROUP_SIZES:
            raise ExportError(
                f"{path} has groups of {kind.group_size}; vLLM's kernel knows {', '.join(map(str, GROUP_SIZES))}: "
                "quantize in one of these, or give weights='bf16'."
            )
        if kind.bits == 8 and not kind.symmetric:
            raise ExportError(
                f"{path} has 8 bits with zero points, for which vLLM has no kernel; quantize with symmetric=True, or "
                "give weights='bf16'."
            )
    for index in range(len(list(model.get_submodule(family.layers).children()))):
        for group in FUSED:
            _require_agreeing(family, index, group, grids)
    padded = [path for path in grids if _padded(model, path)]
    if padded:
        outputs, inputs = matrix_of(model.get_submodule(padded[0])).shape
        warnings.warn(
            f"{len(padded)} matrices are no whole tiles of vLLM's Marlin kernel, {OUTPUTS} outputs by {INPUTS} inputs, "
            f"such as {padded[0]} with {outputs} by {inputs}: vLLM 0.33 pads them, older ones refuse them. Widths in "
            f"multiples of {INPUTS} are whole.",
            NasEngineWarning,
            stacklevel=4,
        )


def _require_agreeing(family: Family, index: int, group: tuple[str, ...], grids: Mapping[str, Grid]) -> None:
    if not set(group) <= set(family.projections):
        return
    kinds = {}
    for name in group:
        grid = grids.get(family.path(f"layers.{index}.{name}"))
        kinds[name] = None if grid is None else grid.settings
    if len(set(kinds.values())) > 1:
        said = ", ".join(
            f"{name} {'16 bits' if kind is None else f'{kind.bits} bits in groups of {kind.group_size}'}"
            for name, kind in kinds.items()
        )
        raise ExportError(
            f"vLLM multiplies by {', '.join(group)} of a layer as one, and in layer {index} they differ: {said}. Let "
            f"them share a gene: weight_bits(..., share=(('q', 'k', 'v'), ('o',), ('gate', 'up'), ('down',)))."
        )


def _padded(model: PreTrainedModel, path: str) -> bool:
    outputs, inputs = matrix_of(model.get_submodule(path)).shape
    return bool(outputs % OUTPUTS or inputs % INPUTS)
