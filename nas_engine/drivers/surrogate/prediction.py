"""What a surrogate expects of genomes: computed where that is possible, else from processes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas_engine.arrays import Array, Flags
from nas_engine.drivers.driver import DriverProblem, Objectives, Violations
from nas_engine.drivers.surrogate.features import FeatureMap, Features
from nas_engine.drivers.surrogate.process import Process
from search_spaces import Genome


def computed_of(problem: DriverProblem, genomes: Genome) -> Array:
    """What is known of genomes without an evaluation, shape (genomes, objectives + constraints); NaN for the rest."""
    if problem.computed is None:
        return np.full((len(genomes), problem.objectives + problem.constraints), np.nan)
    return problem.computed(genomes).copy()


@dataclass(frozen=True)
class Prediction:
    """What is expected of genomes: computed where it can be, else from processes."""

    problem: DriverProblem
    features: FeatureMap
    processes: dict[int, Process]
    succeeds: Process | None

    def mean(self, genomes: Genome) -> tuple[Objectives, Violations]:
        """Expected objectives and violations; a probable failure is a violation too."""
        features = self.features(genomes)
        outputs = computed_of(self.problem, genomes)
        for i, process in self.processes.items():
            outputs[:, i] = process.mean(features)
        objectives, violations = np.split(outputs, [self.problem.objectives], axis=1)
        if self.succeeds is None:
            return objectives, violations
        return objectives, np.column_stack([violations, 0.5 - self._success(features)])

    def draws(self, genomes: Genome, count: int, rng: np.random.Generator) -> tuple[Array, Flags]:
        """Draws of the objectives, shape (count, genomes, objectives), and whether all constraints are met in each."""
        features = self.features(genomes)
        outputs = np.repeat(computed_of(self.problem, genomes)[None], count, axis=0)
        for i, process in self.processes.items():
            outputs[:, :, i] = process.posterior(features).samples(count, rng)
        objectives, violations = np.split(outputs, [self.problem.objectives], axis=2)
        return objectives, np.asarray((violations <= 0).all(axis=2))

    def success(self, genomes: Genome) -> Array:
        """The probability that an evaluation succeeds, shape (genomes,)."""
        return np.ones(len(genomes)) if self.succeeds is None else self._success(self.features(genomes))

    def _success(self, features: Features) -> Array:
        assert self.succeeds is not None
        return np.clip(self.succeeds.mean(features), 0.02, 1.0)
