"""Sub-networks that cost no search: the papers' heuristics (SQFT, arXiv 2410.03750, appendix), and the best sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from evaluators import Evaluator
from nas_engine.drivers.additive import Additive
from nas_engine.execution.measuring import S, Searchable
from nas_engine.goal.computed import tabulate
from nas_engine.goal.goal import by_gene
from nas_engine.training.visits import Visits
from search_spaces import Configuration, SearchSpace


def median(space: SearchSpace) -> Configuration:
    """Every gene at its middle value, the larger of two."""
    return space.configuration(space.median)


def most_active(visits: Visits) -> Configuration:
    """Every gene at the value that was active most often in training; the larger one of a tie."""
    space = visits.space
    counts = [np.bincount(visits.genomes[:, i], minlength=len(gene)) for i, gene in enumerate(space.genes)]
    return space.configuration([len(count) - 1 - int(count[::-1].argmax()) for count in counts])


def lowest_loss(visits: Visits, count: int = 5) -> list[Configuration]:
    """The `count` visited configurations of the lowest mean loss in training, the lowest first.

    Raises:
        ValueError: `count` below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}; it must be at least 1.")
    genomes, where = np.unique(visits.genomes, axis=0, return_inverse=True)
    means = np.bincount(where.ravel(), weights=visits.losses) / np.bincount(where.ravel())
    return [visits.space.configuration(genomes[i]) for i in np.argsort(means, kind="stable")[:count]]


def least_loss(
    supernet: Searchable[S], sensitivity: Mapping[str, Sequence[float]], cost: Evaluator, at_most: float
) -> Configuration:
    """The configuration of the least summed sensitivity whose cost keeps a bound: what a search would begin with.

    It takes no evaluation but of `cost`. Sums are only a forecast; a search with the same sensitivity corrects them.

    Args:
        supernet: whose sub-networks are meant.
        sensitivity: what ``supernet.sensitivity(texts)`` gave.
        cost: a sum over layers, such as a `LatencyTable`, `ParameterCount` or a roofline.
        at_most: in its unit.

    Raises:
        SearchError: a sensitivity of another space.
        ValueError: the cost is to be maximized or is no sum over layers, or no sub-network keeps the bound.
    """
    space = supernet.space
    table, sums = None, None
    if cost.direction == "minimize":
        table = tabulate(lambda genome: cost(supernet.subnetwork(space.configuration(genome))).value, space)
        sums = None if table is None else Additive.of(space, by_gene(sensitivity, space), table)
    if table is None or sums is None:
        raise ValueError(
            f"{cost.name} is no sum over the layers of this space that falls with them; search with it as a constraint."
        )
    found = sums.within(table.base - at_most)
    if found is None:
        least = cost(supernet.subnetwork(space.configuration(space.smallest))).value
        raise ValueError(f"no sub-network has {cost.name} <= {at_most:g}; the smallest has {least:g}.")
    return space.configuration(found)
