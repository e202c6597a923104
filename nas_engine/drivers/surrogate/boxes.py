"""Where to measure next along a front that is known but for one number: where that may hide the most.

Between two measured neighbours, a point's value lies between theirs, and so does its cost: a box. The largest box is
halved, over and over (Hamacher, Pedersen and Ruzika, 2007, Operations Research Letters 35(3), the box algorithm): where
quality falls off a cliff, the cliff is found in a few measurements, and none is spent on what lies far below it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nas_engine.arrays import Array

_FLAT = 0.1  # of the values' range: what counts of a box without any height, so that wide gaps are filled last
_MAGNITUDES = 20.0  # largest value over least, from which on differences say less than ratios


def beyond(values: Array, kept: npt.NDArray[np.bool_]) -> Array:
    """`values`, to be minimized, as they count: what is not `kept` as infinite, and of values that span magnitudes, how
    far the best is from being as good, ``1 - best / value``.

    Args:
        values: shape (genomes,); NaN where there is none.
        kept: what is wanted at all, shape (genomes,).
    """
    shown = np.where(kept, values, np.inf)
    best = shown.min(initial=np.inf)
    if best > 0 and shown.max(initial=0.0, where=kept) > _MAGNITUDES * best:
        shown = np.where(kept, 1 - best / shown, np.inf)
    return shown


def box_midpoints(costs: Array, values: Array, count: int) -> list[int]:
    """Positions of up to `count` points that are to be measured.

    Args:
        costs: of all points, ascending or descending, shape (points,), not all the same.
        values: measured ones, NaN elsewhere, shape (points,); the first and the last are measured. Infinite ones are
            worse than all others, as far as these lie apart, and between two of them there is nothing to find.
        count: how many; of a box that is halved already, the halves count as halves in height too.
    """
    known = np.flatnonzero(~np.isnan(values))
    found = values[known]
    heights = _heights(found) + _FLAT
    heights[np.isinf(found[1:]) & np.isinf(found[:-1])] = 0.0
    boxes = [(int(a), int(b), float(h)) for a, b, h in zip(known, known[1:], heights, strict=False)]
    chosen: list[int] = []
    while len(chosen) < count:
        boxes = [box for box in boxes if box[1] - box[0] > 1]
        if not boxes:
            break
        a, b, height = max(boxes, key=lambda box: abs(costs[box[1]] - costs[box[0]]) * box[2])
        inside = np.arange(a + 1, b)
        middle = int(inside[np.abs(costs[inside] - (costs[a] + costs[b]) / 2).argmin()])
        chosen.append(middle)
        boxes.remove((a, b, height))
        boxes += [(a, middle, height / 2), (middle, b, height / 2)]
    return chosen


def _heights(values: Array) -> Array:
    """How far neighbours lie apart, in parts of the range; shape (values - 1,)."""
    finite = values[np.isfinite(values)]
    reach = float(np.ptp(finite)) if len(finite) else 0.0
    worst = (float(finite.max()) if len(finite) else 0.0) + (reach or 1.0)
    shown = np.where(np.isinf(values), worst, values)
    heights: Array = np.abs(np.diff(shown)) / max(float(np.ptp(shown)), 1e-300)
    return heights
