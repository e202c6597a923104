"""The hypervolume that a search dominates, evaluation by evaluation."""

from __future__ import annotations

import numpy as np
from moocore import hypervolume

from nas_engine.arrays import Array, Flags
from nas_engine.magnitude import LARGEST


def hypervolumes(values: Array, feasible: Flags, reference_point: Array) -> list[float]:
    """What is dominated after each row, measured from `reference_point`.

    A volume beyond the largest number is given as about that.

    Args:
        values: to be minimized, in the order of evaluation, shape (rows, objectives).
        feasible: which rows count, shape (rows,).
        reference_point: shape (objectives,).
    """
    # What is beyond the point adds nothing; sides are cut so that their product is a number.
    longest = LARGEST ** (1 / len(reference_point)) / 2
    values = np.clip(values, reference_point - longest, reference_point)
    volumes, volume, front = [], 0.0, np.empty((0, values.shape[1]))
    for row, counts in zip(values, feasible, strict=True):
        if counts and not (front <= row).all(axis=1).any():
            front = np.vstack([front[~(row <= front).all(axis=1)], row])
            volume = float(hypervolume(front, ref=reference_point))
        volumes.append(volume)
    return volumes
