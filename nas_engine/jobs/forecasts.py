"""What a sensitivity forecasts of any budget in seconds: the least summed loss, exactly, with nothing evaluated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluators import Evaluator
from nas_engine.drivers.additive import Additive
from nas_engine.drivers.effort import EXACT, Effort
from nas_engine.drivers.exact_front import Solution, exact_front
from nas_engine.execution.measuring import S, Searchable
from nas_engine.goal.computed import tabulate
from nas_engine.goal.goal import by_gene
from search_spaces import Configuration, Genome

_AGAIN = 4  # tries at a solution that costs more than the sums say
_ROUNDING = 1e-9  # relative


@dataclass(frozen=True)
class Forecast:
    """A configuration of the least summed sensitivity under budgets.

    Args:
        configuration: of the sub-network.
        loss: its summed sensitivity.
        costs: what it costs, by the costs' names, in their units.
        gap: by how much of the loss it may be worse than the best at most; 0 where it is the best.
    """

    configuration: Configuration
    loss: float
    costs: Mapping[str, float]
    gap: float


def least_loss_front(
    supernet: Searchable[S],
    sensitivity: Mapping[str, Sequence[float]],
    cost: Evaluator | Sequence[Evaluator],
    budgets: int | Sequence[float] | Sequence[Sequence[float]] = 20,
    effort: Effort = EXACT,
) -> list[Forecast]:
    """For each budget the configuration of the least summed sensitivity: a whole front in seconds, as `least_loss`.

    Args:
        supernet: whose sub-networks are meant.
        sensitivity: what ``supernet.sensitivity(texts)`` gave.
        cost: a sum over layers, or several of them.
        budgets: in the cost's unit; of several costs, a bound of each for every budget. A number takes as many,
            evenly from the least to the largest sub-network's first cost, the others unbounded.
        effort: how far each is pursued.

    Raises:
        SearchError: a sensitivity of another space.
        ValueError: a cost is to be maximized or is no sum over layers, budgets do not fit the costs, or no sub-network
            keeps one of them; the least that one does is named.
    """
    costs = list(cost) if isinstance(cost, Sequence) else [cost]
    sums, names = _sums(supernet, sensitivity, costs), [c.name for c in costs]

    def measured(genome: Genome) -> npt.NDArray[np.float64]:
        subnet = supernet.subnetwork(supernet.space.configuration(genome))
        return np.array([cost(subnet).value for cost in costs], dtype=float)

    if isinstance(budgets, int):
        if budgets < 1:
            raise ValueError(f"budgets is {budgets}; give 1 or more, or the budgets themselves.")
        rows = np.full((budgets, len(costs)), np.inf)
        cheapest = _cheapest(sums, 0, rows[0])
        assert cheapest is not None  # nothing is bounded
        rows[:, 0] = np.linspace(measured(cheapest.genome)[0], sums.base[0], budgets)
    else:
        given = [np.atleast_1d(budget) for budget in budgets]
        if not given or any(row.shape != (len(costs),) or np.isnan(row).any() for row in given):
            raise ValueError(f"budgets is {budgets}; give each a bound of {', '.join(names)}.")
        rows = np.array(given, dtype=float)
    found = []
    for row, solution in zip(rows, exact_front(sums, rows, effort), strict=True):
        kept = _kept(sums, row, solution, measured, effort)
        if kept is None:
            raise ValueError(_unreachable(sums, names, row, measured))
        known = dict(zip(names, measured(kept.genome).tolist(), strict=True))
        found.append(Forecast(supernet.space.configuration(kept.genome), kept.loss, known, kept.gap))
    return found


def _kept(
    sums: Additive,
    budget: npt.NDArray[np.float64],
    solution: Solution | None,
    measured: Callable[[Genome], npt.NDArray[np.float64]],
    effort: Effort,
) -> Solution | None:
    """`solution`, or another where it costs more than the sums say; None where there is none.

    Sums hold but for corners such as a network without any attention, which keeps a norm that one with some does not.
    """
    aimed, rounding = budget, _ROUNDING * np.abs(np.where(np.isfinite(budget), budget, 0.0))
    for _ in range(_AGAIN):
        if solution is None:
            return None
        over = measured(solution.genome) - budget
        if (over <= rounding).all():
            return solution
        aimed = np.where(over > 0, aimed - np.maximum(over, rounding), aimed)
        solution = exact_front(sums, aimed[None], effort)[0]
    return None


def _sums(supernet: Searchable[S], sensitivity: Mapping[str, Sequence[float]], costs: Sequence[Evaluator]) -> Additive:
    space, tables = supernet.space, []
    for cost in costs:
        # The cost is bound as a default, for the loop goes on.
        def score(genome: Genome, cost: Evaluator = cost) -> float:
            return cost(supernet.subnetwork(space.configuration(genome))).value

        table = tabulate(score, space) if cost.direction == "minimize" else None
        if table is None:
            raise ValueError(_no_sum(cost.name))
        tables.append(table)
    known = by_gene(sensitivity, space)
    sums = Additive.of(space, known, lambda genomes: np.column_stack([table(genomes) for table in tables]))
    if sums is None:
        raise ValueError(_no_sum(" and ".join(cost.name for cost in costs)))
    return sums


def _no_sum(name: str) -> str:
    return f"{name} is no sum over the layers of this space that falls with them; search with it as a constraint."


def _cheapest(sums: Additive, cost: int, budget: npt.NDArray[np.float64]) -> Solution | None:
    """The genome of the least of one cost under a budget of the others."""
    return exact_front(sums.with_losses([costs[:, cost] for costs in sums.costs]), budget[None])[0]


def _unreachable(
    sums: Additive,
    names: Sequence[str],
    bounds: npt.NDArray[np.float64],
    measured: Callable[[Genome], npt.NDArray[np.float64]],
) -> str:
    """What to say of bounds that no sub-network keeps: how little one of them can be, while the others are kept."""
    for i, name in enumerate(names):
        others = np.where(np.arange(len(names)) == i, np.inf, bounds)
        for budget in (np.full(len(names), np.inf), others):
            found = _cheapest(sums, i, budget)
            if found is None or (least := measured(found.genome)[i]) <= bounds[i]:
                continue
            kept = [f"{n} <= {b:g}" for n, b in zip(names, budget, strict=True) if np.isfinite(b)]
            with_them = f" with {' and '.join(kept)}" if kept else ""
            there = " with that" if kept else ""
            return f"no sub-network has {name} <= {bounds[i]:g}{with_them}; the least{there} is {least:g}."
    together = " and ".join(f"{n} <= {b:g}" for n, b in zip(names, bounds, strict=True))
    return f"no sub-network has {together} together; raise one of them."
