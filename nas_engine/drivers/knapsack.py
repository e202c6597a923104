"""A multiple-choice knapsack: of every block one choice, the least summed loss whose summed costs keep their budgets.

The relaxation to fractions of choices prices the budgets (Everett, 1963) and bounds the loss from below, choices that
nearly fit it from above. Sums of blocks, one after the other, are then kept only where no other beats them in loss and
all costs and where the prices leave hope of the least (Pisinger, 1995): exact, and for one budget over 96 genes some
hundred sums. Where several budgets make too many of them, HiGHS's branch and cut (Huangfu and Hall, 2018) is asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from moocore import is_nondominated
from scipy.sparse import csr_array, vstack

from nas_engine.arrays import Array
from nas_engine.drivers.effort import Effort

Indices = npt.NDArray[np.int64]
_RANGE = 1e4  # of losses as solvers see them: an absolute gap of 1e-6 is nothing beside it
_ROUNDING = 1e-10  # of a budget, relative to what its cost can change; as little as tells equal sums from others
_SOLVER = 1e-6  # by how much HiGHS may miss a budget, likewise
_DEAREST = 1e18  # price at which losses no longer count
_HALVINGS = 50  # of a range of prices
_TRIES = 20  # at solutions that miss a budget by less than HiGHS sees
_SLACK = 1e-7  # of a bound, of _RANGE


class Knapsack:
    """The problem but for its budgets. A variable is a choice of a block; losses and costs are scaled.

    Args:
        losses: of each block's choices, shape (choices,) each.
        costs: likewise, shape (choices, costs).
    """

    def __init__(self, losses: Sequence[Array], costs: Sequence[Array]) -> None:
        self.block = np.repeat(np.arange(len(losses)), [len(of_block) for of_block in losses])  # of each variable
        self.first = np.searchsorted(self.block, np.arange(len(losses)))
        lost = np.concatenate([of_block - of_block.min() for of_block in losses])  # none below 0
        self.losses = lost * (_RANGE / (np.maximum.reduceat(lost, self.first).sum() or 1.0))
        reach = np.sum([np.ptp(of_block, axis=0) for of_block in costs], axis=0)
        self.reach = np.where(reach > 0, reach, 1.0)
        self.costs = np.vstack(costs) / self.reach  # (variables, costs)
        self.cheapest = np.minimum.reduceat(self.costs, self.first, axis=0).sum(axis=0)
        self.dearest = np.maximum.reduceat(self.costs, self.first, axis=0).sum(axis=0)
        variables = np.arange(len(self.block))
        self.one_each = csr_array((np.ones(len(variables)), (self.block, variables)))

    def solved(self, budgets: Array, effort: Effort) -> tuple[Indices, float] | None:
        """Each block's choice, and by how much of its loss, counted from each block's least, it is worse than the best
        at most; None where none keeps the budgets.

        Args:
            budgets: of the summed costs, shape (costs,); infinity for none.
            effort: how far the best is pursued.
        """
        room = budgets / self.reach + _ROUNDING
        relaxed = self._relaxed(room)
        if relaxed is None:
            return None
        bound, excess, near = relaxed
        known = self._improved(near, room) if self._keeps(near, room) else None
        best = self._loss(known)
        if known is None or best - bound > max(effort.gap * best, _SLACK):
            hope = best - bound + _SLACK
            kept = np.flatnonzero(excess <= hope)
            found, proved = self._summed(kept, excess, hope, room, effort.sums) or self._programmed(kept, room, effort)
            known, best = (found, self._loss(found)) if self._loss(found) < best else (known, best)
            bound = max(bound, min(proved, best))
        if known is None:
            return None
        return known - self.first, (best - bound) / best if best - bound > 10 * _SLACK else 0.0

    def _relaxed(self, room: Array) -> tuple[float, Array, Indices] | None:
        """Of fractions of choices: a bound of the loss, by how much each choice's loss and price exceed its block's
        least, and the cheapest of the choices that each block uses; None where not even these keep the budgets.
        """
        if (self.cheapest > room).any():
            return None
        binding = np.flatnonzero(self.dearest > room)  # budgets that some choices exceed
        if not len(binding):
            return 0.0, self.losses, self._least_of_each(self.losses)
        for cost in binding:
            bound, excess, near = self._relaxed_under(self.costs[:, cost], float(room[cost]))
            if self._keeps(near, room):  # the others do not bind then
                return bound, excess, near
        return self._relaxed_by_highs(room, binding)

    def _relaxed_under(self, costs: Array, room: float) -> tuple[float, Array, Indices]:
        """The same of one budget, by its price."""
        low, high = 0.0, 0.0
        while self._at_price(high, costs)[1] > room and high < _DEAREST:
            low, high = high, max(4 * high, 1e-3 * _RANGE)
        for _ in range(_HALVINGS if high else 0):
            middle = (low + high) / 2
            low, high = (low, middle) if self._at_price(middle, costs)[1] <= room else (middle, high)
        priced, _, near = self._at_price(high, costs)
        least = np.minimum.reduceat(priced, self.first)
        return float(least.sum() - high * room), priced - least[self.block], near

    def _at_price(self, price: float, costs: Array) -> tuple[Array, float, Indices]:
        """Losses and priced costs, and what the least of each block cost, the cheapest of equal ones, and which."""
        priced = self.losses + price * costs
        least = np.minimum.reduceat(priced, self.first)[self.block]
        candidates = np.where(priced <= least + 1e-12 * _RANGE, costs, np.inf)
        cheapest = np.minimum.reduceat(candidates, self.first)
        found = np.flatnonzero(candidates == cheapest[self.block])
        near = found[np.searchsorted(found, self.first)]  # the first of each block
        return priced, float(cheapest.sum()), near

    def _relaxed_by_highs(self, room: Array, bounded: Indices) -> tuple[float, Array, Indices] | None:
        from scipy.optimize import linprog  # takes a second to import

        found = linprog(
            self.losses,
            A_ub=self.costs[:, bounded].T,
            b_ub=room[bounded],
            A_eq=self.one_each,
            b_eq=np.ones(len(self.first)),
            bounds=(0, None),
            method="highs-ds",
        )
        if found.x is None:
            return None
        prices = np.maximum(-found.ineqlin.marginals, 0.0)
        priced = self.losses + self.costs[:, bounded] @ prices
        least = np.minimum.reduceat(priced, self.first)
        used = np.where(found.x > 1e-9, self.costs[:, bounded].sum(axis=1), np.inf)
        near = self._least_of_each(used)
        return float(least.sum() - prices @ room[bounded]), priced - least[self.block], near

    def _improved(self, chosen: Indices, room: Array) -> Indices:
        """`chosen`, a variable a block, with other ones as the budgets allow, the greatest relief first."""
        while True:
            left = room - self.costs[chosen].sum(axis=0)
            fits = (self.costs - self.costs[chosen][self.block] <= left).all(axis=1)
            change = np.where(fits, self.losses - self.losses[chosen][self.block], 0.0)
            best = int(change.argmin())
            if change[best] > -_SLACK:
                return chosen
            chosen = chosen.copy()
            chosen[self.block[best]] = best

    def _summed(
        self, kept: Indices, excess: Array, hope: float, room: Array, at_most: int
    ) -> tuple[Indices | None, float] | None:
        """The best choices among the variables `kept`, if any, and their loss; None where there are too many sums.

        Args:
            kept: variables, in the order of blocks.
            excess: of each variable, by how much its loss and price exceed its block's least.
            hope: of a sum of excesses, beyond which no sum can be the least.
            room: scaled budgets.
            at_most: sums that are looked at at once.
        """
        blocks = [kept[self.block[kept] == i] for i in range(len(self.first))]
        if not all(map(len, blocks)):
            return None, np.inf
        alone = np.array([block[0] for block in blocks if len(block) == 1], dtype=np.int64)
        order = sorted((i for i, block in enumerate(blocks) if len(block) > 1), key=lambda i: len(blocks[i]))
        rest = sum((self.costs[blocks[i]].min(axis=0) for i in order), np.zeros(len(room)))  # least of what is to come
        costs, losses = self.costs[alone].sum(axis=0)[None], self.losses[alone].sum()[None]
        over = excess[alone].sum()[None]
        steps: list[tuple[Indices, Indices]] = []  # of each block: from which sum each comes, and by which variable
        for i in order:
            block = blocks[i]
            if len(costs) * len(block) > at_most:
                return None
            rest = rest - self.costs[block].min(axis=0)
            added = (over[:, None] + excess[block]).ravel()
            total = (costs[:, None] + self.costs[block]).reshape(-1, len(room))
            rows = np.flatnonzero((added <= hope) & (total + rest <= room).all(axis=1))
            total, lost = total[rows], (losses[:, None] + self.losses[block]).ravel()[rows]
            unbeaten = _unbeaten(total, lost)
            costs, losses, rows = total[unbeaten], lost[unbeaten], rows[unbeaten]
            over = added[rows]
            steps.append((rows // len(block), block[rows % len(block)]))
        if not len(losses):
            return None, np.inf
        chosen, at = np.array([block[0] for block in blocks]), int(losses.argmin())
        for i, (before, variable) in zip(reversed(order), reversed(steps), strict=True):
            chosen[i], at = variable[at], before[at]
        return chosen, self._loss(chosen)

    def _programmed(self, kept: Indices, room: Array, effort: Effort) -> tuple[Indices | None, float]:
        """The best choices among the variables `kept`, if any, and a bound of the least loss, by HiGHS."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        options = {"mip_rel_gap": effort.gap}
        options |= {"node_limit": effort.nodes} if effort.nodes is not None else {}
        options |= {"time_limit": effort.seconds} if effort.seconds is not None else {}
        bounded, blocks = np.isfinite(room), len(self.first)
        cuts: list[Array] = []
        for attempt in range(_TRIES + 1):
            matrix = vstack([self.one_each, csr_array(np.vstack([self.costs[:, bounded].T, *cuts]))]).tocsc()[:, kept]
            limits = room[bounded] - (_SOLVER if attempt == _TRIES else 0.0)
            upper = np.concatenate([np.ones(blocks), limits, np.full(len(cuts), blocks - 1.0)])
            lower = np.where(np.arange(len(upper)) < blocks, 1.0, -np.inf)
            found = milp(
                self.losses[kept],
                constraints=LinearConstraint(matrix, lower, upper),
                integrality=np.ones(len(kept)),
                bounds=Bounds(0, 1),
                options=options,
            )
            known = found.mip_dual_bound if found.status != 2 else np.inf  # status 2: there is none
            bound = -np.inf if known is None else float(known)
            if found.x is None:
                return None, bound
            chosen = kept[found.x > 0.5]
            if self._keeps(chosen, room):
                return chosen, bound
            # It misses a budget by less than HiGHS sees.
            cuts.append(np.isin(np.arange(len(self.block)), chosen).astype(float))
        return None, bound

    def _loss(self, chosen: Indices | None) -> float:
        return np.inf if chosen is None else float(self.losses[chosen].sum())

    def _keeps(self, chosen: Indices, room: Array) -> bool:
        return bool((self.costs[chosen].sum(axis=0) <= room).all())

    def _least_of_each(self, values: Array) -> Indices:
        """The variable of each block whose value is the least."""
        parts = np.split(values, self.first[1:])
        return np.array([first + part.argmin() for first, part in zip(self.first, parts, strict=True)])


def _unbeaten(costs: Array, losses: Array) -> Indices:
    """Positions of the sums that no other beats in loss and all costs; one of equal ones."""
    if costs.shape[1] > 1:
        return np.flatnonzero(is_nondominated(np.column_stack([costs, losses]), keep_weakly=False))
    order = np.lexsort((losses, costs[:, 0]))
    least = np.minimum.accumulate(losses[order])
    falls: npt.NDArray[np.bool_] = np.append(True, least[1:] < least[:-1])[: len(order)]
    return np.asarray(order[falls], dtype=np.int64)
