"""How evaluations compare: what is feasible, what is dominated, what lies alone on the front."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from moocore import pareto_rank
from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance

from nas_engine.drivers.driver import Objectives, Violations


def best(objectives: Objectives, violations: Violations, size: int) -> npt.NDArray[np.int64]:
    """The rows of the `size` best genomes: feasible before infeasible, front by front, the lonelier of one front first.

    NSGA-II's order (Deb et al., 2002); infeasible ones go by the sum of their violations.

    Args:
        objectives: shape (genomes, objectives), to be minimized.
        violations: shape (genomes, constraints); above 0 where one is missed.
        size: rows at most.
    """
    missed = np.maximum(violations, 0.0).sum(axis=1)
    feasible, rest = np.flatnonzero(missed <= 0), np.flatnonzero(missed > 0)
    chosen: list[npt.NDArray[np.int64]] = []
    left = min(size, len(objectives))
    if len(feasible):
        ranks = pareto_rank(objectives[feasible])
        for rank in range(ranks.max() + 1):
            rows = feasible[ranks == rank]
            crowding = calc_crowding_distance(objectives[rows])
            chosen.append(rows[np.argsort(-crowding, kind="stable")[:left]])
            left -= len(chosen[-1])
            if not left:
                break
    chosen.append(rest[np.argsort(missed[rest], kind="stable")[:left]])
    return np.concatenate(chosen).astype(np.int64)


def dominates(first: Objectives, first_missed: float, second: Objectives, second_missed: float) -> bool:
    """Whether the first evaluation is better by Deb's rules: less violation, or no worse in all and better in one."""
    if first_missed > 0 or second_missed > 0:
        return first_missed < second_missed
    return bool((first <= second).all() and (first < second).any())
