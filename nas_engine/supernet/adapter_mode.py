"""How a frozen weight W and its adapter's update L = s · B A act as one layer, and what they merge to.

Three ways, after SQFT (arXiv 2410.03750, section 3), with M the mask of the frozen weight's nonzeros:

- ``plain``: ``X Wᵀ + X Lᵀ``, LoRA's own. Merging into a sparse weight would fill its zeros, into a quantized one leave
  its grid, so there the adapter stays beside it (Shears, SQFT).
- ``masked``: ``X (W + L ⊙ M)ᵀ``. Merging gives exactly that, every zero kept (SparsePEFT).
- ``quantized``: as masked, put on the grid of the frozen weight with a straight-through gradient. Merging gives exactly
  its integers; scales and zero points stay (QA-SparsePEFT). A weight without a grid is as masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from nas_engine.compression.grid import Grid, dequantize, quantize
from nas_engine.errors import ExportError

_SPARSE_FROM = 0.01  # fraction of zeros that nobody has by chance


class AdapterMode(Protocol):
    """A way for a weight and an update of shape (outputs, inputs) to become one."""

    @property
    def name(self) -> str:
        """What `AdapterSettings` calls it."""
        ...

    @property
    def beside(self) -> bool:
        """Whether the adapter runs as a low-rank product of its own; else the layer computes with `weight`."""
        ...

    def weight(self, frozen: Tensor, update: Tensor, grid: Grid | None) -> Tensor:
        """The one weight, in the type of `frozen`; the gradient reaches `update`.

        Raises:
            ExportError: one weight cannot be what both are without losing zeros or the grid.
        """
        ...

    def absorbed(self, frozen: Tensor, update: Tensor, grid: Grid | None) -> Tensor:
        """The frozen weight on which a new adapter goes on: with a zero update it computes what both compute now.

        Raises:
            ExportError: as `weight`.
        """
        ...

    def merges(self, sparsity: float, grid: Grid | None) -> bool:
        """Whether `weight` never raises for a frozen weight with that fraction of zeros."""
        ...


@dataclass(frozen=True)
class Plain:
    """``W + L``, for dense weights in floating point."""

    name: ClassVar[str] = "plain"
    beside: ClassVar[bool] = True

    def weight(self, frozen: Tensor, update: Tensor, grid: Grid | None) -> Tensor:
        """See `AdapterMode.weight`."""
        if grid is not None:
            raise ExportError(
                f"its weight is on a {grid.settings.bits}-bit grid, which a plain adapter would leave when merged; "
                "train with adapter_mode='quantized', or keep the adapter beside it with save_adapter."
            )
        merged = (frozen.float() + update).to(frozen.dtype)
        zeros = frozen == 0
        lost = int((zeros & (merged != 0)).sum())
        if lost >= _SPARSE_FROM * frozen.numel():
            raise ExportError(
                f"merging a plain adapter would fill {lost} of its {int(zeros.sum())} zeros; "
                "train with adapter_mode='masked', or keep the adapter beside it with save_adapter."
            )
        return merged

    def absorbed(self, frozen: Tensor, update: Tensor, grid: Grid | None) -> Tensor:
        """See `AdapterMode.absorbed`."""
        return self.weight(frozen, update, grid)

    def merges(self, sparsity: float, grid: Grid | None) -> bool:
        """See `AdapterMode.merges`."""
        return grid is None and sparsity < _SPARSE_FROM


@dataclass(frozen=True)
class Masked:
    """``W + L ⊙ M``: SparsePEFT."""

    name: ClassVar[str] = "masked"
    beside: ClassVar[bool] = False

    def weight(self, frozen: Tensor, update: Tensor, grid: Grid | None) -> Tensor:
        """See `AdapterMode.weight`."""
        return (frozen.float() + update.masked_fill(frozen == 0, 0.0)).to(frozen.dtype)

    def absorbed(self, frozen: Tensor, update: Tensor, grid: Grid | None) -> Tensor:
        """See `AdapterMode.absorbed`."""
        return self.weight(frozen, update, None)

    def merges(self, sparsity: float, grid: Grid | None) -> bool:
        """See `AdapterMode.merges`."""
        return True


@dataclass(frozen=True)
class Quantized(Masked):
    """``W + L ⊙ M`` on the grid of W: QA-SparsePEFT."""

    name: ClassVar[str] = "quantized"

    def weight(self, frozen: Tensor, update: Tensor, grid: Grid | None) -> Tensor:
        """See `AdapterMode.weight`."""
        masked = super().weight(frozen, update, None)
        if grid is None:
            return masked
        on_grid: Tensor = _StraightThrough.apply(masked, grid)  # type: ignore[no-untyped-call]
        return on_grid


ADAPTER_MODES: dict[str, AdapterMode] = {way.name: way for way in (Plain(), Masked(), Quantized())}


class _StraightThrough(torch.autograd.Function):
    """Onto the grid forward; backward as if nothing had been rounded or clamped (Bengio et al., 2013)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, grid: Grid) -> Tensor:
        return dequantize(quantize(weight, grid), grid).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None
