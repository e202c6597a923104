"""Weights that are kept make up for those that became zero: least squares on what the layer reads. On one matrix."""

from __future__ import annotations

import torch
from torch import Tensor

_DAMPING = 0.01  # of the mean square of an input, so that what the calibration never shows stays as it was
_ITERATIONS = 100
_TOLERANCE = 1e-2  # of the gradient that is left, in the norm that the diagonal gives


@torch.no_grad()
def refitted(weight: Tensor, keep: Tensor, products: Tensor) -> Tensor:
    """The weight with the given zeros whose outputs are closest to those of `weight`, shape (outputs, inputs).

    Minimizes ``||X (W - V)ᵀ||²`` over V that is zero outside the mask, damped towards W: the reconstruction that
    SparseGPT (Frantar and Alistarh, 2023, arXiv 2301.00774, section 3.1) approximates column by column. Here all rows
    are solved together, by conjugate gradients with the diagonal as preconditioner, so that the cost is that of some
    dozens of products with ``XᵀX`` however the masks of the rows differ.

    Args:
        weight: before it became sparse, shape (outputs, inputs).
        keep: the mask, of the same shape, True where a weight stays.
        products: ``XᵀX`` of the calibration inputs, shape (inputs, inputs).
    """
    damped = products.float().clone()
    damped.diagonal().add_(_DAMPING * damped.diagonal().mean() + torch.finfo(torch.float32).tiny)
    scale = damped.diagonal()
    removed = weight.float() * ~keep
    change = torch.zeros_like(removed)  # of the kept weights
    residual = (removed @ damped) * keep
    direction = residual / scale
    gradient = (residual * direction).sum(1, keepdim=True)  # one a row: each is a system of its own
    enough = _TOLERANCE**2 * gradient
    for _ in range(_ITERATIONS):
        if bool((gradient <= enough).all()):
            break
        image = (direction @ damped) * keep
        curvature = (direction * image).sum(1, keepdim=True)
        step = torch.where(curvature > 0, gradient / curvature, 0.0)
        change += step * direction
        residual -= step * image
        next_gradient = (residual * residual / scale).sum(1, keepdim=True)
        direction = residual / scale + torch.where(gradient > 0, next_gradient / gradient, 0.0) * direction
        gradient = next_gradient
    result: Tensor = ((weight.float() + change) * keep).to(weight.dtype)
    return result
