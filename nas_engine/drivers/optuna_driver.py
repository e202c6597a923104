"""Optuna's samplers behind ask and tell. The study lives in memory; the ledger keeps what was measured."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, TPESampler
from optuna.trial import Trial, TrialState

from nas_engine.drivers.driver import DriverProblem, Objectives, Violations
from nas_engine.drivers.initial import first_generation, unseen
from search_spaces import Genome

_PATIENCE = 5  # genomes asked before that a sampler may propose in a row
SamplerFactory = Callable[[int, int], BaseSampler]  # of population and seed


def nsga2_sampler(population: int, seed: int) -> BaseSampler:
    """Optuna's NSGA-II with its own operators."""
    return NSGAIISampler(population_size=population, seed=seed)


def nsga3_sampler(population: int, seed: int) -> BaseSampler:
    """Optuna's NSGA-III with its own operators."""
    return NSGAIIISampler(population_size=population, seed=seed)


def tpe_sampler(population: int, seed: int) -> BaseSampler:
    """Optuna's tree-structured Parzen estimator (Bergstra et al., 2011), multi-objective where there are several."""
    return TPESampler(n_startup_trials=population, seed=seed)


def gp_sampler(population: int, seed: int) -> BaseSampler:
    """Optuna's Gaussian process with expected (hypervolume) improvement; seconds an evaluation at 100 genes."""
    return GPSampler(n_startup_trials=population, seed=seed)


class OptunaDriver:
    """One genome at a time from an Optuna sampler, after the common first generation.

    Args:
        problem: what is searched; its population and seed are the sampler's too.
        sampler: makes the sampler of population and seed.
    """

    asynchronous: ClassVar[bool] = True

    def __init__(self, problem: DriverProblem, sampler: SamplerFactory) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space = problem.space
        # Genes are ordered, so indices are integers to the sampler and not categories.
        self._distributions = {
            gene.name: optuna.distributions.IntDistribution(0, len(gene) - 1) for gene in space.genes
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(
                directions=["minimize"] * problem.objectives, sampler=sampler(problem.population, problem.seed)
            )
        for genome in first_generation(space, problem.population, np.random.default_rng(problem.seed)):
            self._study.enqueue_trial(self._parameters(genome))
        self._rng = np.random.default_rng([problem.seed, 1])
        self._told: dict[bytes, tuple[Objectives, Violations]] = {}
        self._waiting: dict[bytes, list[Trial]] = {}  # of genomes asked for and not told yet

    def ask(self) -> Genome:
        """One genome that was not asked before; empty once draws find none.

        A sampler may insist on a genome that it knows, above all on a failed one, of which it learns nothing. It is
        told the same again a few times; then a random genome takes the turn.
        """
        for _ in range(_PATIENCE):
            trial, genome = self._next()
            key = genome.tobytes()
            if key in self._told:
                self._learn(trial, *self._told[key])
                continue
            self._waiting.setdefault(key, []).append(trial)
            if len(self._waiting[key]) == 1:
                return genome[None]
        fresh = unseen(self._space, {**self._told, **self._waiting}, 1, self._rng)
        if len(fresh):
            self._study.enqueue_trial(self._parameters(fresh[0]))
            self._waiting[fresh[0].tobytes()] = [self._next()[0]]
        return fresh

    def tell(self, genomes: Genome, objectives: Objectives, violations: Violations | None = None) -> None:
        """Learn genomes that were asked for, in that order."""
        for i, genome in enumerate(genomes):
            missed = np.empty(0) if violations is None else violations[i]
            self._told[genome.tobytes()] = objectives[i], missed
            for trial in self._waiting.pop(genome.tobytes()):
                self._learn(trial, objectives[i], missed)

    def _next(self) -> tuple[Trial, Genome]:
        trial: Trial = self._study.ask(self._distributions)  # type: ignore[arg-type]
        return trial, np.array([trial.params[name] for name in self._space.names], dtype=np.int64)

    def _learn(self, trial: Trial, values: Objectives, missed: Violations) -> None:
        if np.isnan(values).any():
            self._study.tell(trial, state=TrialState.FAIL)
            return
        for i, violation in enumerate(missed.tolist()):
            trial.set_constraint(str(i), violation)
        self._study.tell(trial, values.tolist())

    def _parameters(self, genome: Genome) -> dict[str, int]:
        return dict(zip(self._space.names, genome.tolist(), strict=True))
