"""Finite numbers so large that their squares or products are not: penalties, perplexities of ruined models."""

from __future__ import annotations

import numpy as np

from nas_engine.arrays import Array

LARGEST = float(np.finfo(np.float64).max)
_COMPUTABLE = 1e60  # up to here the squares of a few numbers can be multiplied


def bounded(values: Array) -> Array:
    """`values` in their order, those beyond 1e60 by their logarithms, so that none is above 1e63; NaN stays NaN."""
    size = np.minimum(np.abs(values), LARGEST)
    beyond = size > _COMPUTABLE
    if not beyond.any():
        return values
    compressed = _COMPUTABLE * (1 + np.log(np.where(beyond, size, _COMPUTABLE) / _COMPUTABLE))
    return np.where(beyond, np.sign(values) * compressed, values)


def relative(values: Array, zero: Array, one: Array) -> Array:
    """`values` on the scale on which `zero` is 0 and `one` is 1; a difference of two may be beyond all numbers."""
    with np.errstate(over="ignore"):
        shares: Array = (values / 2 - zero / 2) / (one / 2 - zero / 2)
    return np.clip(shares, -LARGEST, LARGEST)
