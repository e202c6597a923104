"""Which genomes to evaluate next: those expected to add most hypervolume (Daulton et al., 2021, noisy expected gain).

Monte Carlo over draws of the posterior: in every draw the evaluated genomes have a front, and a candidate gains what it
dominates beyond that front. Chosen greedily, each chosen one joining the front, so that a batch is diverse by itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from moocore import hypervolume, is_nondominated

from nas_engine.arrays import Array
from nas_engine.drivers.driver import Objectives


def gains(front: Objectives, candidates: Objectives, reference: Objectives) -> Array:
    """The hypervolume that each candidate alone adds to `front`, all to be minimized, shape (candidates,).

    Args:
        front: shape (points, objectives), no point dominated by another.
        candidates: shape (candidates, objectives).
        reference: the point up to which volume counts, shape (objectives,).
    """
    front = front[(front < reference).all(axis=1)]
    boxes = np.maximum(reference - candidates, 0.0)
    if candidates.shape[1] == 1:
        better: Array = np.maximum(front.min(initial=np.inf) - candidates[:, 0], 0.0)
        return np.minimum(boxes[:, 0], better)
    if candidates.shape[1] == 2:
        return _areas(front, candidates, reference)
    volumes: Array = boxes.prod(axis=1)
    for i in np.flatnonzero(volumes > 0):
        within = np.maximum(front, candidates[i])  # what the front dominates of the candidate's box
        if len(within):
            volumes[i] -= hypervolume(within, ref=reference)
    return np.maximum(volumes, 0.0)


def _areas(front: Objectives, candidates: Objectives, reference: Objectives) -> Array:
    ordered = front[np.argsort(front[:, 0])]
    left = np.concatenate([[-np.inf], ordered[:, 0]])  # between left and right the front is at height
    right = np.concatenate([ordered[:, 0], [reference[0]]])
    height = np.concatenate([[reference[1]], ordered[:, 1]])
    widths = np.maximum(right - np.maximum(left, candidates[:, :1]), 0.0)  # (candidates, steps)
    heights = np.maximum(height - candidates[:, 1:], 0.0)
    area: Array = (widths * heights).sum(axis=1)
    return area


def choose_batch(
    known: Array, known_feasible: npt.NDArray[np.bool_], drawn: Array, weights: Array, reference: Objectives, count: int
) -> list[int]:
    """The candidates of the largest expected gain, one after the other; fewer than `count` where no further one gains.

    Args:
        known: draws of the evaluated genomes' objectives, shape (draws, genomes, objectives).
        known_feasible: in which draws each meets its constraints, shape (draws, genomes).
        drawn: draws of the candidates' objectives, shape (draws, candidates, objectives), of the same functions.
        weights: what a candidate's gain counts in each draw, shape (draws, candidates): 0 where it is infeasible.
        reference: up to which volume counts, shape (objectives,).
        count: how many.
    """
    fronts = [_front(points[feasible]) for points, feasible in zip(known, known_feasible, strict=True)]
    chosen: list[int] = []
    for _ in range(count):
        gained = np.stack([gains(f, c, reference) for f, c in zip(fronts, drawn, strict=True)])
        expected = (gained * weights).mean(axis=0)
        expected[chosen] = -1.0
        best = int(expected.argmax())
        if expected[best] <= 0:
            break
        chosen.append(best)
        feasible = weights[:, best] > 0
        fronts = [
            _front(np.vstack([front, points[best]])) if ok else front
            for front, points, ok in zip(fronts, drawn, feasible, strict=True)
        ]
    return chosen


def _front(points: Objectives) -> Objectives:
    return points[is_nondominated(points)] if len(points) else points
