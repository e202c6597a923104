"""Where to measure next along a front that is known but for one number: where that may hide the most.

Between two measured neighbours, a point's value lies between theirs, and so does its cost: a box. The largest box is
halved, over and over (Hamacher, Pedersen and Ruzika, 2007, Operations Research Letters 35(3), the box algorithm): where
quality falls off a cliff, the cliff is found in a few measurements, and none is spent on what lies far below it.
"""

from __future__ import annotations

import numpy as np

from nas_engine.arrays import Array

_FLAT = 0.1  # of the values' range: what counts of a box without any height, so that wide gaps are filled last


def box_midpoints(costs: Array, values: Array, count: int) -> list[int]:
    """Positions of up to `count` points that are to be measured.

    Args:
        costs: of all points, ascending or descending, shape (points,), not all the same.
        values: measured ones, NaN elsewhere, shape (points,); the first and the last are measured.
        count: how many; of a box that is halved already, the halves count as halves in height too.
    """
    known = np.flatnonzero(~np.isnan(values))
    heights = np.abs(np.diff(values[known])) / max(float(np.ptp(values[known])), 1e-300) + _FLAT
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
