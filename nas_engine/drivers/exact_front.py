"""The least summed loss under budgets, exactly: what is to be lost at any latency, bytes or energy, in seconds.

Each block of genes takes one of its joint choices; the sum of what they cost keeps every budget, and the sum of what
they lose is the least. Puzzle (Bercovich et al., 2024, arXiv 2411.19146, section 3) chooses blocks so, by an integer
program; `Knapsack` solves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas_engine.arrays import Array
from nas_engine.drivers.additive import Additive
from nas_engine.drivers.effort import EXACT, Effort
from nas_engine.drivers.knapsack import Knapsack
from search_spaces import Genome


@dataclass(frozen=True)
class Solution:
    """A genome of the least summed loss.

    Args:
        genome: shape (genes,).
        loss: its summed loss.
        costs: its summed costs, shape (costs,).
        gap: by how much of its loss it is worse than the best at most; 0 where it is the best.
    """

    genome: Genome
    loss: float
    costs: Array
    gap: float


def exact_front(sums: Additive, budgets: Array, effort: Effort = EXACT) -> list[Solution | None]:
    """For each budget the genome of the least summed loss that costs no more; None where there is none.

    Args:
        sums: losses and costs of each block's choices.
        budgets: of each cost, in its unit, shape (budgets, costs); infinity for none.
        effort: how far each is pursued.
    """
    efficient = sums.efficient()
    knapsack = Knapsack(efficient.losses, efficient.costs)
    found: list[Solution | None] = []
    for budget in budgets:
        solved = knapsack.solved(budget - sums.base, effort)
        if solved is None:
            found.append(None)
            continue
        rows, gap = solved
        genome = efficient.genome(rows)
        loss = sum(losses[row] for losses, row in zip(efficient.losses, rows, strict=True))
        costs = sums.base + sum(costs[row] for costs, row in zip(efficient.costs, rows, strict=True))
        found.append(Solution(genome, float(loss), costs, gap))
    return found


def spread_budgets(sums: Additive, count: int, costs: Sequence[int] = (0,), limits: Array | None = None) -> Array:
    """`count` budgets of each of some costs alone, evenly from its least to its most; of several costs, as many of all
    of them in step, shape (budgets, costs).

    Args:
        sums: whose costs they are.
        count: of budgets, of each cost.
        costs: positions of those that are bounded.
        limits: of each cost, which no budget exceeds; infinity, the default, for none.
    """
    limits = np.full(len(sums.base), np.inf) if limits is None else limits
    levels = np.linspace(sums.least_costs, np.maximum(np.minimum(sums.most_costs, limits), sums.least_costs), count)
    turns = [[cost] for cost in costs] + ([list(costs)] if len(costs) > 1 else [])
    rows = np.repeat(limits[None], count * len(turns), axis=0)
    for turn, bounded in enumerate(turns):
        rows[turn * count : (turn + 1) * count, bounded] = levels[:, bounded]
    return rows
