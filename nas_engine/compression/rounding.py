"""GPTQ: the error of each rounded input is made up for by the inputs still to come. A pure function on one matrix.

Frantar et al., 2023 (arXiv 2210.17323). Weights that are zero stay so, as in SparseGPT (arXiv 2301.00774, section 3):
what would have compensated there is passed on to the weights that are left.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nas_engine.compression.grid import Grid, GridSettings, dequantize, find_grid, quantize
from nas_engine.errors import CompressionError

_BLOCK = 128


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight on its grid.

    Args:
        integers: int8, shape (outputs, inputs).
        grid: their scales and zero points.
        unrounded: the weights that were rounded to `integers`, shape (outputs, inputs): for GPTQ the compensated ones.
    """

    integers: Tensor
    grid: Grid
    unrounded: Tensor

    @property
    def weight(self) -> Tensor:
        """The dequantized weight, shape (outputs, inputs)."""
        return dequantize(self.integers, self.grid)


def round_to_nearest(weight: Tensor, settings: GridSettings) -> QuantizedWeight:
    """The baseline: every weight on its own.

    Raises:
        CompressionError: the group size does not divide the inputs.
    """
    grid = find_grid(weight, settings)
    return QuantizedWeight(quantize(weight, grid), grid, weight.clone())


def gptq(
    weight: Tensor,
    hessian: Tensor,
    settings: GridSettings,
    act_order: bool = False,
    damping: float = 0.01,
) -> QuantizedWeight:
    """Put `weight` on a grid, input by input, such that its outputs on the calibration data change little.

    Args:
        weight: shape (outputs, inputs); its zeros stay zero.
        hessian: ``Xᵀ X`` of the calibration inputs, shape (inputs, inputs).
        settings: of the grid.
        act_order: take the inputs with the largest activations first. Their groups stay where they are, on a grid found
            beforehand (compressed-tensors' ``weight`` ordering), so that the stored format does not change.
        damping: fraction of the mean diagonal that is added to the diagonal.

    Raises:
        CompressionError: the group size does not divide the inputs, or the damping is not above 0.
    """
    settings.require_dividing(weight.shape[1])
    if not damping > 0:
        raise CompressionError(f"damping is {damping}; it must be above 0.")
    keep = weight != 0
    order = hessian.diagonal().argsort(descending=True, stable=True) if act_order else None
    fixed = find_grid(weight, settings) if act_order else None
    factor = _inverse_factor(hessian, order, damping)
    if order is not None:
        back = order.argsort()
        groups = order // settings.group_size
        unrounded, _ = _solve(weight[:, order], keep[:, order], factor, settings, fixed, groups)
        unrounded, grid = unrounded[:, back], fixed
    else:
        groups = torch.arange(weight.shape[1], device=weight.device) // settings.group_size
        unrounded, grid = _solve(weight, keep, factor, settings, None, groups)
    assert grid is not None
    unrounded = unrounded.to(weight.dtype)
    return QuantizedWeight(quantize(unrounded, grid), grid, unrounded)


def output_error(weight: Tensor, approximation: Tensor, hessian: Tensor) -> float:
    """``||X (W - Ŵ)ᵀ||² / ||X Wᵀ||²`` of inputs with ``Xᵀ X`` as `hessian`: what a layer's outputs lose."""
    weight, approximation = weight.double(), approximation.double()
    change, hessian = weight - approximation, hessian.double()
    return float(((change @ hessian) * change).sum() / ((weight @ hessian) * weight).sum())


def _inverse_factor(hessian: Tensor, order: Tensor | None, damping: float) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped Hessian (GPTQ, section 3.3, step 3), in fp32."""
    damped = hessian.double()
    damped = damped[order][:, order] if order is not None else damped.clone()
    diagonal = damped.diagonal()
    diagonal += (damping * diagonal.mean()).clamp(min=torch.finfo(torch.float32).tiny)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True).float()
    return factor


def _solve(
    weight: Tensor, keep: Tensor, factor: Tensor, settings: GridSettings, fixed: Grid | None, groups: Tensor
) -> tuple[Tensor, Grid]:
    """The compensated weights at the moment each was rounded, and the grid; columns in the order of `weight`.

    Without a `fixed` grid, that of a group is found from its compensated weights when its first input comes.
    """
    left = weight.float().clone()  # what is still to be rounded, compensated so far
    unrounded = torch.empty_like(left)
    scales: list[Tensor] = []
    zero_points: list[Tensor] = []
    size = settings.group_size
    block = max(size, _BLOCK // size * size)  # whole groups, so that a group's grid sees all compensation so far
    column_grid = fixed
    for start in range(0, left.shape[1], block):
        end = min(start + block, left.shape[1])
        errors = torch.zeros_like(left[:, start:end])
        for j in range(start, end):
            if fixed is None and j % size == 0:
                column_grid = find_grid(left[:, j : j + size] * keep[:, j : j + size], settings, weight.dtype)
                scales.append(column_grid.scale)
                zero_points.append(column_grid.zero_point)
            assert column_grid is not None
            column = left[:, j] * keep[:, j]
            group = int(groups[j]) if fixed is not None else 0
            rounded = _rounded(column, column_grid, group)
            unrounded[:, j] = column
            # What a zero could not take over is an error too.
            errors[:, j - start] = (left[:, j] - rounded) / factor[j, j]
            left[:, j + 1 : end].addr_(errors[:, j - start], factor[j, j + 1 : end], alpha=-1)
        left[:, end:].addmm_(errors, factor[start:end, end:], alpha=-1)
    grid = fixed if fixed is not None else Grid(settings, torch.cat(scales, 1), torch.cat(zero_points, 1))
    return unrounded, grid


def _rounded(column: Tensor, grid: Grid, group: int) -> Tensor:
    """`column` on the grid of `group` and back, shape (outputs,)."""
    s, scale, zero = grid.settings, grid.scale[:, group].float(), grid.zero_point[:, group]
    return ((column / scale).round_().add_(zero).clamp_(s.smallest, s.largest) - zero) * scale
