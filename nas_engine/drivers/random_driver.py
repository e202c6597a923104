"""Random search without repeats: the baseline that every other driver has to beat."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from nas_engine.drivers.driver import DriverProblem, Objectives, Violations
from nas_engine.drivers.initial import first_generation, unseen
from search_spaces import Genome


class RandomDriver:
    """Draws genomes uniformly, each once.

    Args:
        problem: what is searched; a batch has its population.
    """

    asynchronous: ClassVar[bool] = False

    def __init__(self, problem: DriverProblem) -> None:
        self._space, self._population = problem.space, problem.population
        self._rng = np.random.default_rng(problem.seed)
        self._seen: set[bytes] = set()

    def ask(self) -> Genome:
        """The next genomes, none of them asked before; empty once draws find no new one."""
        if self._seen:
            fresh = unseen(self._space, self._seen, self._population, self._rng)
        else:
            fresh = first_generation(self._space, self._population, self._rng)
        self._seen |= {genome.tobytes() for genome in fresh}
        return fresh

    def tell(self, genomes: Genome, objectives: Objectives, violations: Violations | None = None) -> None:
        """Ignore what is told: a random driver learns nothing."""
