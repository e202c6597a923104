"""Where a surrogate's warm start and candidates come from: by default an evolutionary search on predictions."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from nas_engine.arrays import Array
from nas_engine.drivers.driver import DriverProblem
from nas_engine.drivers.initial import distinct
from nas_engine.drivers.operators import first_layers, ordered_mutation
from nas_engine.drivers.ranking import best
from nas_engine.drivers.surrogate.design import warm_start
from nas_engine.drivers.surrogate.evolution import evolve
from nas_engine.drivers.surrogate.exact import Exact
from nas_engine.drivers.surrogate.hint import promising, starting_points
from nas_engine.drivers.surrogate.prediction import Prediction, computed_of
from nas_engine.drivers.surrogate.settings import SurrogateSettings
from nas_engine.errors import SearchError
from search_spaces import Genome

_HINTED_SHARE = 0.6  # of the warm start, where a sensitivity says what to expect


class Proposals(Protocol):
    """Genomes for a surrogate to choose among; a function of the problem, its seed and what was told."""

    def first(self, count: int) -> Genome:
        """The warm start, or its first part: largest, smallest and median, and up to `count` genomes in all, shape
        (genomes, genes).
        """
        ...

    def more(self, genomes: Genome, outputs: Array, count: int) -> Genome:
        """Up to `count` genomes with which the warm start goes on; none where it is over.

        Args:
            genomes: that were evaluated.
            outputs: objectives and violations of each; NaN of failed ones.
            count: how many at most.
        """
        ...

    def candidates(self, prediction: Prediction, measured: Genome) -> Genome:
        """What may be evaluated next, the best first, shape (genomes, genes); evaluated ones may be among them.

        Args:
            prediction: of any genome.
            measured: genomes whose evaluation succeeded.
        """
        ...


class Evolved:
    """A design over the space, or where the sums of a sensitivity have their front; then what NSGA-II ends with on the
    predictions.

    The front is exact where `Exact` can be made. Where there are other objectives, more than half of the first genomes
    lie along the front that an evolutionary search expects, the others are such a design.

    Args:
        problem: what is searched.
        settings: of the inner search.
        rng: of all draws.
    """

    def __init__(self, problem: DriverProblem, settings: SurrogateSettings, rng: np.random.Generator) -> None:
        self._problem, self._settings, self._rng = problem, settings, rng
        self._layers = first_layers(problem.space)
        self._exact = _exact(problem, settings, rng)

    def first(self, count: int) -> Genome:
        """See `Proposals`."""
        problem, s = self._problem, self._settings
        if self._exact is not None:
            return self._exact.first(count)
        if problem.sensitivity is None:
            return warm_start(problem.space, count, self._rng)
        general = warm_start(problem.space, count - round(_HINTED_SHARE * count), self._rng)

        def computed(genomes: Genome) -> Array:
            return computed_of(problem, genomes)[:, : problem.objectives]

        left = max(count - len(general), 0)  # of a small population, nothing
        hinted = promising(problem.space, problem.sensitivity, computed, left, s.survivors, s.generations, self._rng)
        return distinct(np.vstack([general, hinted]))

    def more(self, genomes: Genome, outputs: Array, count: int) -> Genome:
        """See `Proposals`."""
        return genomes[:0] if self._exact is None else self._exact.more(genomes, outputs, count)

    def candidates(self, prediction: Prediction, measured: Genome) -> Genome:
        """See `Proposals`."""
        space, size = self._problem.space, self._settings.survivors
        parents = measured[best(*prediction.mean(measured), size // 2)]
        start = distinct(
            np.vstack(
                [
                    parents,
                    ordered_mutation(parents, space.largest, self._rng),
                    starting_points(space, size // 4, self._rng),
                ]
            )
        )
        return evolve(prediction.mean, start, space.largest, self._layers, size, self._settings.generations, self._rng)


def _exact(problem: DriverProblem, settings: SurrogateSettings, rng: np.random.Generator) -> Exact | None:
    """Where there is all that it needs."""
    if problem.sensitivity is None:
        return None
    try:
        return Exact(problem, settings, rng)
    except SearchError:
        return None
