"""What a benchmark of search drivers knows of a problem: true scores, noisy ones, the scale of its hypervolume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas_engine.drivers.driver import DriverProblem
from search_spaces import Genome, SearchSpace

Array = npt.NDArray[np.float64]
Scores = tuple[Array, Array]  # objectives and violations of genomes, all to be minimized


@dataclass(frozen=True)
class BenchmarkProblem:
    """A problem with known answers.

    Args:
        space: of the genomes.
        true: from genomes to their objectives and violations, without noise.
        measure: the same as an evaluation says it, with noise drawn from a generator.
        ideal: what counts as 0 in each objective; `nadir` as 1.
        nadir: see `ideal`.
        reference: up to which scaled value hypervolume counts, shape (objectives,).
        computed: as `DriverProblem` has it.
        sensitivity: likewise; given to drivers that make something of it where a benchmark says so.
    """

    space: SearchSpace
    true: Callable[[Genome], Scores]
    measure: Callable[[Genome, np.random.Generator], Scores]
    ideal: Array
    nadir: Array
    reference: Array
    computed: Callable[[Genome], Array] | None = None
    sensitivity: tuple[Array, ...] | None = None

    def driver_problem(self, population: int, seed: int, evaluations: int, hinted: bool = False) -> DriverProblem:
        """What a driver is made of; `hinted` tells it the sensitivity."""
        objectives, violations = self.true(self.space.largest[None])
        return DriverProblem(
            self.space,
            objectives.shape[1],
            population,
            seed,
            violations.shape[1],
            self.computed,
            evaluations,
            self.sensitivity if hinted else None,
        )


def corners(space: SearchSpace, true: Callable[[Genome], Scores]) -> tuple[Array, Array]:
    """Ideal and nadir of the largest and the smallest sub-network, each of shape (objectives,)."""
    objectives, _ = true(np.stack([space.largest, space.smallest]))
    return objectives.min(axis=0), objectives.max(axis=0)
