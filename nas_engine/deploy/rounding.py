"""Which matrices of a model leave as integers, for runtimes that take any grid: chosen here, written elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from nas_engine.compression.grid import Grid, GridSettings, dequantize, find_grid, quantize
from nas_engine.compression.sparsification import matrix_of
from nas_engine.errors import ExportError
from nas_engine.families.family import Family

_GROUP = 32  # inputs that share a scale of 4 bits


@dataclass(frozen=True)
class Stored:
    """A matrix as integers.

    Args:
        integers: int8, shape (outputs, inputs).
        grid: what they stand for.
    """

    integers: Tensor
    grid: Grid

    @property
    def decoded(self) -> Tensor:
        """The matrix that is stored, in fp32."""
        return dequantize(self.integers, replace(self.grid, scale=self.grid.scale.float()))


def integer_matrices(
    model: PreTrainedModel, family: Family, weights: str | None, grids: Mapping[str, Grid], scales: torch.dtype
) -> dict[str, Stored]:
    """Matrices that leave as integers, by the path of their module; tied ones once.

    With ``int8`` every output has a scale; with ``int4`` every 32 inputs of it, and embeddings and the output head have
    8 bits.

    Args:
        model: an extracted one.
        family: of it.
        weights: ``"int8"``, ``"int4"``; None keeps the integers of `grids`; all else stores none.
        grids: of quantized matrices, by path.
        scales: their type.

    Raises:
        ExportError: groups do not divide a matrix's inputs.
    """
    if weights not in ("int8", "int4", None):
        return {}
    found = {}
    for path, module in _matrices(model):
        matrix = matrix_of(module).cpu()
        if weights is None:
            if path in grids:
                found[path] = Stored(quantize(matrix, grids[path]).cpu(), _with_scales(grids[path], scales))
            continue
        inside = path.startswith(f"{family.layers}.")
        settings = GridSettings(4, _GROUP) if weights == "int4" and inside else GridSettings(8, matrix.shape[1])
        if matrix.shape[1] % settings.group_size:
            raise ExportError(
                f"{path} has {matrix.shape[1]} inputs, and int4 stores groups of {_GROUP}; choose sizes in multiples "
                f"of {_GROUP}, or weights='int8'."
            )
        grid = find_grid(matrix.float(), settings, scales)
        found[path] = Stored(quantize(matrix, grid), grid)
    return found


def rounded(model: PreTrainedModel, stored: Mapping[str, Stored], half: bool) -> PreTrainedModel:
    """A copy of `model` in fp32 with its weights as they are stored: `half`, those that are no integers are fp16."""
    copied: PreTrainedModel = copy.deepcopy(model).float()
    with torch.no_grad():
        if half:
            for parameter in copied.parameters():
                parameter.copy_(parameter.half())
        for path, one in stored.items():
            matrix_of(copied.get_submodule(path)).copy_(one.decoded)
    return copied


def _matrices(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """Linear layers and the embeddings of tokens; those of positions are added, never multiplied."""
    seen: set[int] = set()
    tokens = model.get_input_embeddings()
    for path, module in model.named_modules():
        if module is tokens or isinstance(module, nn.Linear | Conv1D):
            weight = module.weight
            if id(weight) not in seen:
                yield path, module
            seen.add(id(weight))


def _with_scales(grid: Grid, dtype: torch.dtype) -> Grid:
    return replace(grid, scale=grid.scale.to("cpu", dtype), zero_point=grid.zero_point.cpu())
