"""Local search: neighbours of what is known to be good, one step of one gene away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nas_engine.drivers.driver import DriverProblem, Objectives, Violations
from nas_engine.drivers.initial import anchors, first_generation, unseen
from nas_engine.drivers.operators import neighbours
from nas_engine.drivers.ranking import best, dominates
from search_spaces import Genome


@dataclass(frozen=True)
class _Evaluated:
    genome: Genome
    objectives: Objectives
    missed: float


class HillClimbingDriver:
    """Climbs from the heuristic sub-network, as Shears does (arXiv 2404.10934, section 3.4).

    The median sub-network is where it starts. Neighbours are evaluated in random order, a few at once; one that
    dominates becomes the new place. Where none does, the climb goes on from the evaluated genome that is best and was
    not yet climbed from: with several objectives nearly every neighbour is a trade, and so the climb walks along the
    front.

    Args:
        problem: what is searched; a quarter of the population is evaluated at once.
    """

    asynchronous: ClassVar[bool] = False

    def __init__(self, problem: DriverProblem) -> None:
        self._problem = problem
        self._batch = max(1, problem.population // 4)
        self._rng = np.random.default_rng(problem.seed)
        self._evaluated: list[_Evaluated] = []
        self._seen: set[bytes] = set()
        self._climbed: set[bytes] = set()
        self._place: _Evaluated | None = None
        self._waiting: list[Genome] = []

    def ask(self) -> Genome:
        """Corners and median first, then neighbours of the place; random genomes where there is nowhere to go."""
        if not self._seen:
            asked = anchors(self._problem.space)
        else:
            while not self._waiting and self._moved_on():
                pass
            asked = np.array(self._waiting[: self._batch]).reshape(-1, len(self._problem.space))
            self._waiting = self._waiting[self._batch :]
            if not len(asked):
                asked = unseen(self._problem.space, self._seen, self._batch, self._rng)
        self._seen |= {genome.tobytes() for genome in asked}
        return asked

    def tell(self, genomes: Genome, objectives: Objectives, violations: Violations | None = None) -> None:
        """Move to a neighbour that dominates the place."""
        for found in _succeeded(genomes, objectives, violations):
            self._evaluated.append(found)
            is_start = bool((found.genome == self._problem.space.median).all())
            place = self._place
            if is_start or (place and dominates(found.objectives, found.missed, place.objectives, place.missed)):
                self._settle(found)

    def _settle(self, place: _Evaluated) -> None:
        self._place = place
        self._climbed.add(place.genome.tobytes())
        around = neighbours(place.genome, self._problem.space.largest)
        self._waiting = [g for g in self._rng.permutation(around) if g.tobytes() not in self._seen]

    def _moved_on(self) -> bool:
        """Go to the best evaluated genome that was not climbed from; False where there is none."""
        left = [e for e in self._evaluated if e.genome.tobytes() not in self._climbed]
        if not left:
            return False
        order = best(np.stack([e.objectives for e in left]), np.array([[e.missed] for e in left]), 1)
        self._settle(left[int(order[0])])
        return True


class LocalSearchDriver:
    """Evaluates a neighbour of every genome on the front, over and over, after the common first generation.

    Like local search for neural architectures (White et al., 2021), for a front instead of one best.

    Args:
        problem: what is searched; a batch has its population at most.
    """

    asynchronous: ClassVar[bool] = False

    def __init__(self, problem: DriverProblem) -> None:
        self._problem = problem
        self._rng = np.random.default_rng(problem.seed)
        self._evaluated: list[_Evaluated] = []
        self._seen: set[bytes] = set()

    def ask(self) -> Genome:
        """A neighbour each of the best genomes; random ones where all neighbours are known."""
        space, population = self._problem.space, self._problem.population
        if not self._seen:
            asked = first_generation(space, population, self._rng)
        else:
            asked = self._around_the_best(population)
            if not len(asked):
                asked = unseen(space, self._seen, population, self._rng)
        self._seen |= {genome.tobytes() for genome in asked}
        return asked

    def tell(self, genomes: Genome, objectives: Objectives, violations: Violations | None = None) -> None:
        """Remember what succeeded."""
        self._evaluated += _succeeded(genomes, objectives, violations)

    def _around_the_best(self, count: int) -> Genome:
        if not self._evaluated:
            return np.empty((0, len(self._problem.space)), dtype=np.int64)
        objectives = np.stack([e.objectives for e in self._evaluated])
        chosen: dict[bytes, Genome] = {}
        for row in best(objectives, np.array([[e.missed] for e in self._evaluated]), count):
            around = neighbours(self._evaluated[row].genome, self._problem.space.largest)
            for genome in self._rng.permutation(around):
                if genome.tobytes() not in self._seen and genome.tobytes() not in chosen:
                    chosen[genome.tobytes()] = genome
                    break
        return np.array(list(chosen.values()), dtype=np.int64).reshape(-1, len(self._problem.space))


def _succeeded(genomes: Genome, objectives: Objectives, violations: Violations | None) -> list[_Evaluated]:
    missed = np.zeros(len(genomes)) if violations is None else np.maximum(violations, 0.0).sum(axis=1)
    return [
        _Evaluated(genome, values, float(miss))
        for genome, values, miss in zip(genomes, objectives, missed, strict=True)
        if not np.isnan(values).any()
    ]
