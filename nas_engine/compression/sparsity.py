"""Which weights to keep: patterns of zeros and the scores that choose them. Pure functions on one matrix."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from nas_engine.errors import CompressionError

_N_OF_M = re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True)
class Unstructured:
    """A fraction of the weights is zero, wherever they are.

    Args:
        ratio: the fraction, from 0 to below 1.

    Raises:
        CompressionError: another number.
    """

    ratio: float

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise CompressionError(f"sparsity is {self.ratio}; give a fraction from 0 to below 1, or '2:4' or '4:8'.")

    def keep(self, scores: Tensor) -> Tensor:
        """The weights to keep: in every row of `scores`, all but the ``ratio`` of the lowest, as a mask.

        Args:
            scores: shape (rows, weights compared with each other).
        """
        zeros = int(scores.shape[1] * self.ratio)
        mask = torch.ones_like(scores, dtype=torch.bool)
        if zeros:
            lowest = scores.argsort(dim=1, stable=True)[:, :zeros]
            mask.scatter_(1, lowest, False)
        return mask


@dataclass(frozen=True)
class NOfM:
    """Of every `m` consecutive inputs, `n` are kept: 2:4 and 4:8 are those that hardware runs faster.

    Raises:
        CompressionError: not ``0 < n < m``.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise CompressionError(f"the pattern is {self.n}:{self.m}; keep fewer of more, such as 2:4 or 4:8.")

    def keep(self, scores: Tensor) -> Tensor:
        """The `n` highest of every `m` consecutive scores, as a mask of the shape (outputs, inputs) of `scores`.

        Raises:
            CompressionError: the inputs do not divide into groups of `m`.
        """
        if scores.shape[1] % self.m:
            raise CompressionError(
                f"a layer with {scores.shape[1]} inputs does not divide into groups of {self.m}; "
                f"give a ratio such as {1 - self.n / self.m:g} instead of {self.n}:{self.m}."
            )
        groups = scores.unflatten(1, (-1, self.m))  # (outputs, groups, m)
        lowest = groups.argsort(dim=2, stable=True)[:, :, : self.m - self.n]
        mask = torch.ones_like(groups, dtype=torch.bool).scatter_(2, lowest, False)
        return mask.flatten(1)


Pattern = Unstructured | NOfM


def pattern_of(sparsity: float | str) -> Pattern:
    """The pattern that ``0.5`` or ``"2:4"`` stands for.

    Raises:
        CompressionError: neither a fraction from 0 to below 1 nor ``n:m``.
    """
    if isinstance(sparsity, str):
        match = _N_OF_M.fullmatch(sparsity)
        if match:
            return NOfM(int(match[1]), int(match[2]))
        try:
            sparsity = float(sparsity)
        except ValueError:
            raise CompressionError(f"sparsity is {sparsity!r}; give a fraction such as 0.5, or '2:4'.") from None
    return Unstructured(float(sparsity))


def wanda_mask(weight: Tensor, input_norms: Tensor, pattern: Pattern) -> Tensor:
    """What Wanda keeps: ``|W_ij| · ||X_j||₂`` compared within an output's row (arXiv 2306.11695, section 3).

    Args:
        weight: shape (outputs, inputs).
        input_norms: the L2 norm of every input over the calibration tokens, shape (inputs,).
        pattern: how many to keep, and where.

    Returns:
        a mask of the weight's shape, True where a weight stays.
    """
    return pattern.keep(weight.abs().float() * input_norms)


def magnitude_mask(weight: Tensor, pattern: Pattern) -> Tensor:
    """What is largest: ``|W_ij|`` compared over the whole matrix, the baseline of Wanda's paper.

    A pattern n:m compares within its groups, as it must.
    """
    scores = weight.abs().float()
    if isinstance(pattern, Unstructured):
        return pattern.keep(scores.reshape(1, -1)).view(weight.shape)
    return pattern.keep(scores)
