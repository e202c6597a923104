"""Sub-networks that cost no search: the papers' heuristics (SQFT, arXiv 2410.03750, appendix), and the best sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from evaluators import Evaluator
from nas_engine.execution.measuring import S, Searchable
from nas_engine.jobs.forecasts import Forecast, least_loss_front
from nas_engine.training.visits import Visits
from search_spaces import Configuration, SearchSpace

__all__ = ["Forecast", "least_loss", "least_loss_front", "lowest_loss", "median", "most_active"]


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
    supernet: Searchable[S],
    sensitivity: Mapping[str, Sequence[float]],
    cost: Evaluator | Sequence[Evaluator],
    at_most: float | Sequence[float],
) -> Configuration:
    """The configuration of the least summed sensitivity whose cost keeps a bound: what a search would begin with.

    It takes no evaluation but of `cost`. Sums are only a forecast; a search with the same sensitivity corrects them.

    Args:
        supernet: whose sub-networks are meant.
        sensitivity: what ``supernet.sensitivity(texts)`` gave.
        cost: a sum over layers, such as a `LatencyTable`, `ParameterCount` or a roofline; or several of them.
        at_most: in its unit; or a bound for each.

    Raises:
        SearchError: a sensitivity of another space.
        ValueError: a cost is to be maximized or is no sum over layers, or no sub-network keeps the bounds.
    """
    bounds = np.array(at_most, dtype=float).reshape(1, -1)
    return least_loss_front(supernet, sensitivity, cost, bounds.tolist())[0].configuration
