"""Which rows of a table of objectives nothing else dominates. Pure functions on arrays, all to be minimized."""

from __future__ import annotations

import numpy as np
from moocore import is_nondominated

from nas_engine.arrays import Array, Flags


def non_dominated(values: Array) -> Flags:
    """Which rows no other row dominates, shape (rows,); `values` of shape (rows, objectives) are to be minimized."""
    if not len(values):
        return np.zeros(0, dtype=bool)
    return np.asarray(is_nondominated(values, keep_weakly=True), dtype=bool)


def dominated_beyond_error(values: Array, stderrs: Array, errors: float = 1.0) -> Flags:
    """Which rows some other row dominates by more than their errors explain, shape (rows,).

    Row b is so where a row a has, in every objective, ``b - a >= errors * sqrt(stderr_a² + stderr_b²)``, and is better
    in at least one. An objective without errors has to be equal or better, as in plain dominance; one with errors has
    to be better by that much. The errors are taken as independent, which is cautious where both were measured on the
    same questions.

    Args:
        values: to be minimized, shape (rows, objectives).
        stderrs: of the same shape; 0 where a value is exact.
        errors: how many standard errors of the difference.
    """
    with np.errstate(over="ignore"):
        lost = values[:, None, :] - values[None, :, :]  # (b, a, objectives): what b loses to a
        least = errors * np.hypot(stderrs[:, None, :], stderrs[None, :, :])
    dominates: Flags = np.all(lost >= least, axis=2) & np.any(lost > 0, axis=2)
    mask: Flags = np.any(dominates, axis=1)
    return mask


def covered(values: Array, by: Array) -> float:
    """The fraction of rows of `values` that some row of `by` dominates or equals (the C-metric of Zitzler and Thiele,
    1999); NaN where `values` has none. Both are to be minimized, shape (rows, objectives).
    """
    if not len(values):
        return float("nan")
    weakly = np.all(by[None, :, :] <= values[:, None, :], axis=2)  # (rows, rows of by)
    return float(np.mean(np.any(weakly, axis=1)))
