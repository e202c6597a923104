"""The grid that a quantized weight lies on: data, and pure functions onto it and back.

Groups of consecutive inputs of an output share a scale s and a zero point z. Integers are signed, as compressed-tensors
keeps them: ``q = clamp(round(w / s) + z, -2ⁿ⁻¹, 2ⁿ⁻¹ - 1)`` and ``ŵ = s · (q - z)``. Zero is on every grid: w = 0 gives
q = z and ŵ = 0, so that zeros survive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nas_engine.errors import CompressionError

BITS = (4, 8)


@dataclass(frozen=True)
class GridSettings:
    """What kind of grid.

    Args:
        bits: of an integer, 4 or 8.
        group_size: consecutive inputs that share a scale.
        symmetric: the zero point is 0; else each group has its own.

    Raises:
        CompressionError: other bits, or a group size below 1.
    """

    bits: int = 4
    group_size: int = 128
    symmetric: bool = True

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise CompressionError(f"bits is {self.bits}; choose one of {', '.join(map(str, BITS))}.")
        if self.group_size < 1:
            raise CompressionError(f"group_size is {self.group_size}; it must be at least 1.")

    @property
    def smallest(self) -> int:
        """The smallest integer."""
        return -(1 << (self.bits - 1))

    @property
    def largest(self) -> int:
        """The largest integer."""
        return -self.smallest - 1

    def require_dividing(self, inputs: int, where: str = "the layer") -> None:
        """Check that `inputs` are a whole number of groups.

        Raises:
            CompressionError: they are not; group sizes that would do are named.
        """
        if inputs % self.group_size:
            fitting = [size for size in range(16, 257) if inputs % size == 0] or [inputs]
            raise CompressionError(
                f"group_size is {self.group_size}, which does not divide the {inputs} inputs of {where}; "
                f"choose one of {', '.join(map(str, fitting))}."
            )


@dataclass(frozen=True)
class Grid:
    """The grid of one weight of shape (outputs, inputs).

    Args:
        settings: bits, group size, symmetry.
        scale: shape (outputs, groups), in the type of the weight.
        zero_point: shape (outputs, groups), int8; all zero where symmetric.
    """

    settings: GridSettings
    scale: Tensor
    zero_point: Tensor

    @property
    def inputs(self) -> int:
        """Inputs of the weight."""
        return self.scale.shape[1] * self.settings.group_size

    @property
    def stored_bytes(self) -> int:
        """Bytes of the integers, scales and zero points as a checkpoint packs them."""
        outputs, groups = self.scale.shape
        return outputs * self.inputs * self.settings.bits // 8 + self.scale_bytes(outputs, groups)

    def scale_bytes(self, outputs: int, groups: int) -> int:
        """Bytes of the scales and zero points of a part of the weight."""
        zero_points = 0 if self.settings.symmetric else outputs * groups * self.settings.bits
        return zero_points // 8 + outputs * groups * self.scale.element_size()

    def sliced(self, rows: Sequence[slice] = (slice(None),), inputs: int | None = None) -> Grid:
        """The grid of some rows and the first `inputs` columns; a view where `rows` is one slice.

        Raises:
            CompressionError: `inputs` is no whole number of groups.
        """
        inputs = self.inputs if inputs is None else inputs
        self.settings.require_dividing(inputs, "a cut layer")
        groups = inputs // self.settings.group_size

        def cut(tensor: Tensor) -> Tensor:
            parts = [tensor[part, :groups] for part in rows]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        return replace(self, scale=cut(self.scale), zero_point=cut(self.zero_point))

    def reordered(self, order: Tensor) -> Grid:
        """The grid of the outputs in `order`."""
        return replace(self, scale=self.scale[order], zero_point=self.zero_point[order])

    def to(self, device: torch.device) -> Grid:
        """The grid on `device`."""
        return replace(self, scale=self.scale.to(device), zero_point=self.zero_point.to(device))

    def to_half(self) -> Grid:
        """The grid with scales of two bytes."""
        return replace(self, scale=self.scale.half())


def quantize(weight: Tensor, grid: Grid) -> Tensor:
    """The integers nearest to `weight` on `grid`, int8 of shape (outputs, inputs)."""
    s = grid.settings
    grouped = weight.float().unflatten(1, (-1, s.group_size))  # (outputs, groups, group_size)
    steps = (grouped / grid.scale.float()[:, :, None]).round_().add_(grid.zero_point[:, :, None])
    integers: Tensor = steps.clamp_(s.smallest, s.largest).to(torch.int8).flatten(1)
    return integers


def dequantize(integers: Tensor, grid: Grid) -> Tensor:
    """What `integers` stand for, shape (outputs, inputs), in the type of the scales."""
    dtype = grid.scale.dtype
    steps = integers.unflatten(1, (-1, grid.settings.group_size)).to(dtype) - grid.zero_point.to(dtype)[:, :, None]
    weight: Tensor = (steps * grid.scale[:, :, None]).flatten(1)
    return weight


def find_grid(weight: Tensor, settings: GridSettings, dtype: torch.dtype | None = None) -> Grid:
    """The grid that spans the smallest and largest weight of every group, zero included.

    Args:
        weight: shape (outputs, inputs).
        settings: bits, group size, symmetry.
        dtype: of the scales; the weight's own by default.

    Raises:
        CompressionError: the group size does not divide the inputs.
    """
    settings.require_dividing(weight.shape[1])
    grouped = weight.float().unflatten(1, (-1, settings.group_size))  # (outputs, groups, group_size)
    low, high = grouped.amin(2).clamp(max=0), grouped.amax(2).clamp(min=0)
    steps = settings.largest - settings.smallest
    scale = torch.maximum(-low, high) * 2 / steps if settings.symmetric else (high - low) / steps
    scale = scale.to(dtype or weight.dtype)
    # A group without weights is zero at any scale.
    scale = torch.where(scale > torch.finfo(scale.dtype).tiny, scale, torch.ones_like(scale))
    zero_point = torch.zeros_like(scale)
    if not settings.symmetric:
        zero_point = (settings.smallest - low / scale.float()).round().clamp(settings.smallest, settings.largest)
    return Grid(settings, scale, zero_point.to(torch.int8))
