"""How far inputs that are kept stand in for those left out, held for all widths of a layer at once. Pure functions.

Shares go from each width to the next narrower one: a matrix that reads all inputs is made to read fewer, then fewer
again. Every step being least squares on the same inputs, the steps together are the least squares from all inputs to
the fewest. Held like that, all widths together take less than half a square of the inputs, where shares from all inputs
to each width would take a rectangle a width; and in half precision, finer than what a few thousand texts can tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

Shares = Mapping[int, Tensor]
"""By how many inputs are kept, from the most on: the share of each kept input in each that the step leaves out, shape
(kept, left out)."""
_HALVED = 2.0**-10  # of its norm, a weight is at most off in half precision; else it stays as it is
_ROWS = 512  # that are compared at a time
_AT_ONCE = 2**22  # numbers of a share that are in full precision at a time


def stored(shares: Shares, inputs: int) -> dict[int, Tensor]:
    """`shares` as a layer of so many inputs holds them.

    Args:
        shares: of each width in what the step from the next wider one leaves out, or in everything that is left out
            (as older files have them), of which the first columns are that.
        inputs: of the layer.
    """
    sizes = [inputs, *sorted(shares, reverse=True)]
    # In one layout, as files hold them: another one rounds products differently.
    return {kept: halved(shares[kept][:, : wider - kept]).contiguous() for wider, kept in pairwise(sizes)}


def halved(share: Tensor) -> Tensor:
    """`share` in float16, or in bfloat16 where it is too large for that."""
    if share.dtype in (torch.float16, torch.bfloat16):
        return share
    fits = share.is_meta or not share.numel() or float(share.abs().max()) < torch.finfo(torch.float16).max
    return share.to(torch.float16 if fits else torch.bfloat16)


def read_through(matrix: Tensor, shares: Shares, kept: int) -> Tensor:
    """A matrix that reads all inputs, shape (rows, inputs), made to read the first `kept` alone.

    A prefix where there is no share for so many.
    """
    if kept not in shares:
        return matrix[:, :kept]
    for size, share in shares.items():
        if size >= kept:
            matrix = _Through.apply(matrix, share)  # type: ignore[no-untyped-call]
    return matrix


@torch.no_grad()
def fitted(matrix: Tensor, shares: Shares) -> dict[int, Tensor]:
    """A weight of shape (outputs, inputs) for every width, each (outputs, kept), in two bytes a number.

    That is its own type, or float16 where that is close: shares are no finer. Others stay in their own type.
    """
    found: dict[int, Tensor] = {}
    whole = matrix.to(torch.promote_types(matrix.dtype, torch.float32)) if shares else matrix
    for kept, share in shares.items():
        whole = _Through.apply(whole, share)  # type: ignore[no-untyped-call]
        found[kept] = _narrowed(whole.to(matrix.dtype))
    return found


def _narrowed(weight: Tensor) -> Tensor:
    """In float16, if it is of more bytes, and float16 is fine and wide enough for it."""
    if weight.itemsize <= torch.float16.itemsize:
        return weight
    half = weight.to(torch.float16)
    if weight.is_meta or isinstance(weight, FakeTensor):  # of those that have no numbers, only bytes are counted
        return half
    off = sum(float((one.to(weight.dtype) - other).square().sum()) for one, other in zip(
        half.split(_ROWS), weight.split(_ROWS), strict=True))  # fmt: skip
    return half if off <= _HALVED**2 * float(torch.linalg.vector_norm(weight)) ** 2 else weight


class _Through(torch.autograd.Function):
    """``M_K + M_R Sᵀ``; keeps S in half precision for the backward pass, and widens it a part at a time."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, share: Tensor) -> Tensor:
        ctx.save_for_backward(share)
        kept = len(share)
        left_out = matrix[:, kept:]
        parts = [left_out @ part.T.to(matrix.dtype) for _, part in _parts(share)]
        added = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return matrix[:, :kept] + added.to(matrix.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (share,) = ctx.saved_tensors
        left_out = gradient.new_zeros(len(gradient), share.shape[1])
        for rows, part in _parts(share):
            left_out += gradient[:, rows] @ part.to(gradient.dtype)
        return torch.cat([gradient, left_out], 1), None


def _parts(share: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of `share`, few enough to be widened at once."""
    rows = max(1, _AT_ONCE // max(1, share.shape[1]))
    for start in range(0, len(share), rows):
        yield slice(start, start + rows), share[start : start + rows]
