"""The seam between search algorithms and everything else: integer vectors go out, numbers come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from search_spaces import Genome, SearchSpace

Objectives = npt.NDArray[np.float64]
Violations = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DriverProblem:
    """All that a driver knows of the search that it drives.

    Args:
        space: what genomes belong to.
        objectives: how many numbers are to be minimized.
        population: genomes of a generation.
        seed: of everything random in the driver.
        constraints: how many constraints each evaluation is told about.
        computed: from genomes, shape (batch, genes), to what is known of them without an evaluation, shape (batch,
            objectives + constraints): objectives first, then violations as `tell` takes them; NaN where a number has to
            be measured. Cheap enough for thousands of genomes. None where nothing is known.
        evaluations: how many there will be at most; 0 where nobody knows.
        sensitivity: of each gene in turn, how much each of its values is expected to cost in quality where the other
            genes are at their largest, in any unit, shape (values,); None where nobody knows. A hint, no promise.
    """

    space: SearchSpace
    objectives: int
    population: int = 20
    seed: int = 0
    constraints: int = 0
    computed: Callable[[Genome], Objectives] | None = None
    evaluations: int = 0
    sensitivity: tuple[npt.NDArray[np.float64], ...] | None = None


class Driver(Protocol):
    """Proposes genomes and learns from their objectives. Knows nothing of networks, files or time.

    A driver is deterministic: the same problem and the same objectives give the same genomes, which is what makes a
    replayed search continue as an uninterrupted one would have. It begins with the largest, the smallest and the median
    sub-network, and asks for no genome twice.
    """

    @property
    def asynchronous(self) -> bool:
        """Whether it may be asked several times before it is told; it is then told all answers at once, in the order
        asked for.
        """
        ...

    def ask(self) -> Genome:
        """The next genomes to evaluate, shape (batch, genes); an empty batch says that it has no more to propose."""
        ...

    def tell(self, genomes: Genome, objectives: Objectives, violations: Violations | None = None) -> None:
        """Learn the objectives of the genomes asked last.

        Args:
            genomes: shape (batch, genes), as asked.
            objectives: shape (batch, objectives), all to be minimized; a row of NaN is a failed evaluation.
            violations: shape (batch, constraints), by how much each constraint is missed; 0 or less where it is met,
                NaN where the evaluation failed. None where there is no constraint.
        """
        ...
