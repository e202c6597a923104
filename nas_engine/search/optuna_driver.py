"""Optuna's samplers behind ask and tell. The study lives in memory; the ledger keeps what was measured."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import Trial, TrialState

from nas_engine.search.driver import Objectives
from nas_engine.search.initial import first_generation
from search_spaces import Genome, SearchSpace

_PATIENCE = 5  # genomes asked before that a sampler may propose in a row
_DRAWS = 500  # random draws at one not asked before
SamplerFactory = Callable[[int, int], BaseSampler]  # of population and seed


def nsga2_sampler(population: int, seed: int) -> BaseSampler:
    """Optuna's NSGA-II with its own operators."""
    return NSGAIISampler(population_size=population, seed=seed)


def tpe_sampler(population: int, seed: int) -> BaseSampler:
    """Optuna's tree-structured Parzen estimator (Bergstra et al., 2011), multi-objective where there are several."""
    return TPESampler(n_startup_trials=population, seed=seed)


class OptunaDriver:
    """One genome at a time from an Optuna sampler, after the common first generation.

    Attributes:
        asynchronous: several may be asked for before the first is told.

    Args:
        space: what genomes belong to.
        objectives: how many numbers each evaluation gives.
        population: of the first generation, and the sampler's own.
        seed: of both.
        sampler: makes the sampler of population and seed.
    """

    asynchronous = True

    def __init__(
        self, space: SearchSpace, objectives: int, population: int, seed: int, sampler: SamplerFactory
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        # Genes are ordered, so indices are integers to the sampler and not categories.
        self._distributions = {
            gene.name: optuna.distributions.IntDistribution(0, len(gene) - 1) for gene in space.genes
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(directions=["minimize"] * objectives, sampler=sampler(population, seed))
        for genome in first_generation(space, population, np.random.default_rng(seed)):
            self._study.enqueue_trial(self._parameters(genome))
        self._rng = np.random.default_rng([seed, 1])
        self._told: dict[bytes, Objectives] = {}
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
                self._learn(trial, self._told[key])
                continue
            self._waiting.setdefault(key, []).append(trial)
            if len(self._waiting[key]) == 1:
                return genome[None]
        for genome in self._space.sample(self._rng, _DRAWS):
            key = genome.tobytes()
            if key not in self._told and key not in self._waiting:
                self._study.enqueue_trial(self._parameters(genome))
                trial, drawn = self._next()
                self._waiting[key] = [trial]
                return drawn[None]
        return np.empty((0, len(self._space)), dtype=np.int64)

    def tell(self, genomes: Genome, objectives: Objectives) -> None:
        """Learn genomes that were asked for, in that order."""
        for genome, values in zip(genomes, objectives, strict=True):
            self._told[genome.tobytes()] = values
            for trial in self._waiting.pop(genome.tobytes()):
                self._learn(trial, values)

    def _next(self) -> tuple[Trial, Genome]:
        trial: Trial = self._study.ask(self._distributions)  # type: ignore[arg-type]
        return trial, np.array([trial.params[name] for name in self._space.names], dtype=np.int64)

    def _learn(self, trial: Trial, values: Objectives) -> None:
        if np.isnan(values).any():
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, values.tolist())

    def _parameters(self, genome: Genome) -> dict[str, int]:
        return dict(zip(self._space.names, genome.tolist(), strict=True))
