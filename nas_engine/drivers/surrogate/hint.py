"""What a sensitivity of genes says before anything is evaluated: which sub-networks should be worth a look first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from nas_engine.arrays import Array
from nas_engine.drivers.additive import Additive, columns_of, costs_of
from nas_engine.drivers.driver import Objectives, Violations
from nas_engine.drivers.effort import REPEATABLE
from nas_engine.drivers.exact_front import exact_front, spread_budgets
from nas_engine.drivers.initial import distinct
from nas_engine.drivers.operators import first_layers
from nas_engine.drivers.surrogate.design import each_alone, tilted, uniform_levels
from nas_engine.drivers.surrogate.evolution import evolve
from search_spaces import Genome, SearchSpace

_BUDGETS = 40  # of each cost


def starting_points(space: SearchSpace, spread: int, rng: np.random.Generator) -> Genome:
    """Genomes from which a search on predictions begins, whatever those are: all genes alike, each kind alone, and
    `spread` others about the diagonal, shape (genomes, genes).
    """
    return np.vstack(
        [uniform_levels(space, 17), each_alone(space, uniform_levels(space, 9)), tilted(space, spread, rng)]
    )


def promising(
    space: SearchSpace,
    sensitivity: Sequence[Array],
    computed: Callable[[Genome], Array],
    count: int,
    survivors: int,
    generations: int,
    rng: np.random.Generator,
) -> Genome:
    """`count` genomes along the front of what is expected and what is known, shape (count or fewer, genes).

    They are spread evenly over ``1 - exp(-cost)``, for beyond two or three nats a network knows nothing, however far
    beyond; a sum over dozens of blocks goes to tens of nats.

    Args:
        space: the genomes'.
        sensitivity: of each gene in turn; a genome is expected to cost the sum.
        computed: objectives that are known without an evaluation, shape (genomes, objectives), NaN for the others.
            Where none is known, cost is taken to fall with the genes' mean level.
        count: how many.
        survivors: of a generation of the search on expectations.
        generations: of that search.
        rng: of all draws.
    """

    def predict(genomes: Genome) -> tuple[Objectives, Violations]:
        known = computed(genomes)
        known = known[:, ~np.isnan(known).any(axis=0)]
        if not known.shape[1]:
            known = (genomes / space.largest).mean(axis=1, keepdims=True)
        return np.column_stack([costs_of(genomes, sensitivity).sum(axis=1), known]), np.empty((len(genomes), 0))

    known = np.flatnonzero(~np.isnan(computed(space.largest[None])[0]))
    sums = Additive.of(space, sensitivity, columns_of(computed, known)) if len(known) else None
    exact = [] if sums is None else exact_front(sums, spread_budgets(sums, _BUDGETS, range(len(known))), REPEATABLE)
    front = [solution.genome for solution in exact if solution is not None]
    start = distinct(np.vstack([*front, starting_points(space, survivors // 4, rng)]))
    found = evolve(predict, start, space.largest, first_layers(space), survivors, generations, rng)
    costs = predict(found)[0][:, 0]
    order = np.argsort(costs, kind="stable")
    chosen: Genome = found[order[spread_places(costs[order], count)]]
    return chosen


def spread_places(costs: Array, count: int) -> npt.NDArray[np.int64]:
    """`count` different places among ascending `costs`, or all, evenly over ``1 - exp(-cost)``; what it cannot tell
    apart is filled up evenly by place.
    """
    worth = 1 - np.exp(-costs)
    wanted = np.linspace(worth[0], worth[-1], count)
    nearest = np.abs(worth[:, None] - wanted).argmin(0)
    by_place = np.linspace(0, len(costs) - 1, min(count, len(costs))).round().astype(int)
    rest = np.setdiff1d(by_place, nearest)
    missing = min(count, len(costs)) - len(np.unique(nearest))
    filled = rest[np.linspace(0, len(rest) - 1, missing).round().astype(int)] if missing else rest[:0]
    places: npt.NDArray[np.int64] = np.unique(np.concatenate([nearest, filled]))
    return places
