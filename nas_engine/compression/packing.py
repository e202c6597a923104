"""Integers of a quantized weight as bytes, two of four bits in each, to be held in memory and made numbers in parts."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_engine.compression.grid import Grid, dequantize, quantize
from nas_engine.errors import CompressionError


def packed_bytes(weight: Tensor, grid: Grid, where: str = "the weight") -> Tensor:
    """The integers of `weight` on its grid, uint8 of shape (outputs, inputs · bits / 8).

    Args:
        weight: shape (outputs, inputs), on `grid`.
        grid: of it.
        where: what an error calls it.

    Raises:
        CompressionError: it lies beside the grid, so that integers would be another weight; or its inputs are odd.
    """
    integers = quantize(weight, grid)
    off = int((dequantize(integers, grid).to(weight.dtype) != weight).sum())
    if off:
        raise CompressionError(
            f"{where} has {off} of {weight.numel()} numbers beside its {grid.settings.bits}-bit grid, which integers "
            "would change; pack a base as it was quantized, without weights of adapter_mode='quantized'."
        )
    return pack(integers, grid.settings.bits, where)


def pack(integers: Tensor, bits: int, where: str = "the weight") -> Tensor:
    """Signed integers of shape (outputs, inputs) as uint8: the even inputs in the low half of a byte where they have 4
    bits.

    Raises:
        CompressionError: the inputs are odd.
    """
    if bits == 8:
        return integers.view(torch.uint8)
    if integers.shape[1] % 2:
        raise CompressionError(f"{where} has {integers.shape[1]} inputs; two share a byte, so their number is even.")
    low, high = integers.view(torch.uint8).unflatten(1, (-1, 2)).unbind(2)
    held: Tensor = (low & 15) | (high << 4)
    return held


def unpack(held: Tensor, bits: int) -> Tensor:
    """What `pack` was given, int8 of shape (outputs, inputs)."""
    if bits == 8:
        return held.view(torch.int8)
    signed = held.view(torch.int8)
    # To the top of the byte and back, which repeats the sign.
    return torch.stack([(held << 4).view(torch.int8) >> 4, signed >> 4], dim=2).flatten(1)


def widened(held: Tensor, grid: Grid, rows: slice, inputs: int) -> Tensor:
    """Some rows and the first `inputs` columns of a packed weight, in the type of the grid's scales.

    Raises:
        CompressionError: `inputs` is no whole number of groups.
    """
    bits = grid.settings.bits
    part = grid.sliced((rows,), inputs)
    integers = unpack(held[rows, : -(-inputs * bits // 8)], bits)
    return dequantize(integers[:, :inputs], part)
