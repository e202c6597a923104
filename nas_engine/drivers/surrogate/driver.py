"""A driver for expensive evaluations: it predicts what an evaluation would say, and asks for what promises most.

The plan follows predictor-guided search (LINAS in DyNAS-T; Daulton et al., 2021, for the batch): a warm start, a
process for each number that has to be measured, an evolutionary search on the predictions, and the batch of the
largest expected gain in hypervolume. What is computed from sizes is never predicted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas_engine.drivers.driver import DriverProblem, Objectives, Violations
from nas_engine.drivers.initial import anchors, distinct, unseen
from nas_engine.drivers.operators import layers_of, ordered_mutation
from nas_engine.drivers.ranking import best
from nas_engine.drivers.surrogate.design import warm_start
from nas_engine.drivers.surrogate.evolution import evolve
from nas_engine.drivers.surrogate.features import FeatureMap, Features
from nas_engine.drivers.surrogate.gain import choose_batch
from nas_engine.drivers.surrogate.hint import promising, starting_points
from nas_engine.drivers.surrogate.process import Process
from nas_engine.drivers.surrogate.scale import explains_better, rescaled
from search_spaces import Genome

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
_WARM = 8  # genomes that the warm start has at least
_HINTED_SHARE = 0.6  # of the warm start, where a sensitivity says what to expect
_LEARNABLE = 4  # successful evaluations without which nothing is predicted


@dataclass(frozen=True)
class SurrogateSettings:
    """How much work goes into a proposal.

    Args:
        batch: genomes asked at once; None takes a tenth of those told, at least 2 and at most a quarter of the
            population: an early answer changes the most.
        survivors: genomes that survive a generation of the inner search, and candidates at its end.
        generations: of the inner search.
        draws: of the posterior, over which the gain is averaged; a quarter of them for three objectives and more, whose
            hypervolume costs more.
        known: evaluated genomes, the best predicted ones, against whose front gain is measured.
        refit: growth of the evaluations after which the prediction's variances are fitted again.
    """

    batch: int | None = None
    survivors: int = 100
    generations: int = 30
    draws: int = 64
    known: int = 60
    refit: float = 1.15


class SurrogateDriver:
    """Warm start, prediction, inner search, expected hypervolume gain.

    Args:
        problem: what is searched; the warm start has one genome more than the space has genes, at least 8 and at most
            the population. More than half of it lies where a sensitivity, if there is one, expects the front.
        settings: how much work goes into a proposal.
    """

    def __init__(self, problem: DriverProblem, settings: SurrogateSettings | None = None) -> None:
        self._problem = problem
        self._settings = settings or SurrogateSettings()
        self._rng = np.random.default_rng(problem.seed)
        self._features = FeatureMap(problem.space, problem.sensitivity)
        self._layers = layers_of(problem.space)
        self._genomes = np.empty((0, len(problem.space)), dtype=np.int64)
        self._outputs = np.empty((0, problem.objectives + problem.constraints))
        self._seen: set[bytes] = set()
        self._variances: dict[int, Array] = {}  # log-variances of the process of each output
        self._logarithmic = np.zeros(self._outputs.shape[1], dtype=bool)  # outputs predicted as logarithms
        self._fitted_at = 0

    def ask(self) -> Genome:
        """The warm start, later a batch that promises most; empty once the space is exhausted."""
        if not self._seen:
            asked = self._warm_start(min(self._problem.population, max(_WARM, len(self._problem.space) + 1)))
        else:
            batch = self._batch()
            asked = self._proposed(batch) if self._measured().sum() >= _LEARNABLE else self._genomes[:0]
            seen = self._seen | {genome.tobytes() for genome in asked}
            rest = unseen(self._problem.space, seen, batch - len(asked), self._rng)
            asked = np.vstack([asked, rest])
        self._seen |= {genome.tobytes() for genome in asked}
        return asked

    def tell(self, genomes: Genome, objectives: Objectives, violations: Violations | None = None) -> None:
        """Learn the objectives of a batch."""
        missed = np.empty((len(genomes), 0)) if violations is None else violations
        self._genomes = np.vstack([self._genomes, genomes])
        self._outputs = np.vstack([self._outputs, np.column_stack([objectives, missed])])

    def _warm_start(self, count: int) -> Genome:
        problem = self._problem
        if problem.sensitivity is None:
            return warm_start(problem.space, count, self._rng)
        general = warm_start(problem.space, count - round(_HINTED_SHARE * count), self._rng)

        def computed(genomes: Genome) -> Array:
            return self._computed(genomes)[:, : problem.objectives]

        left = max(count - len(general), 0)  # of a small population, nothing
        s = self._settings
        hinted = promising(problem.space, problem.sensitivity, computed, left, s.survivors, s.generations, self._rng)
        return distinct(np.vstack([general, hinted]))

    def _batch(self) -> int:
        """How many genomes are asked next."""
        largest = max(1, self._problem.population // 4)
        return self._settings.batch or min(max(2, len(self._genomes) // 10), largest)

    def _measured(self) -> Flags:
        """Which of the told evaluations succeeded."""
        return np.asarray(~np.isnan(self._outputs).any(axis=1))

    def _proposed(self, batch: int) -> Genome:
        prediction = self._fit()
        candidates = self._candidates(prediction)
        if not len(candidates):
            return candidates
        measured = self._genomes[self._measured()]
        objectives, violations = prediction.mean(measured)
        known = measured[best(objectives, violations, self._settings.known)]
        chosen = self._chosen(prediction, known, candidates, batch)
        # Where nothing is expected to gain, the inner search's order decides.
        filled = [*chosen, *(i for i in range(len(candidates)) if i not in chosen)][:batch]
        return candidates[filled]

    def _fit(self) -> _Prediction:
        """A process for each output that is not computed, and one for whether an evaluation succeeds."""
        succeeded = self._measured()
        genomes, outputs = self._genomes[succeeded], self._outputs[succeeded]
        features, processes = self._features(genomes), {}
        measured = np.flatnonzero(np.isnan(self._computed(genomes[:1])[0])).tolist()
        refit = len(self._genomes) >= self._settings.refit * self._fitted_at
        if refit:
            self._fitted_at = len(self._genomes)
            for i in measured:  # of violations only the sign counts
                self._logarithmic[i] = i < self._problem.objectives and explains_better(features, outputs[:, i])
        self._logarithmic &= (outputs > 0).all(axis=0)  # also what came since
        outputs = rescaled(outputs, self._logarithmic)
        for i in measured:
            processes[i] = Process(features, outputs[:, i], self._variances.get(i), refit or i not in self._variances)
            self._variances[i] = processes[i].log_variances
        success = None
        if not succeeded.all():
            success = Process(self._features(self._genomes), succeeded.astype(float), refit=len(succeeded) < 400)
        return _Prediction(self._problem, self._features, self._computed, processes, success)

    def _computed(self, genomes: Genome) -> Array:
        if self._problem.computed is None:
            return np.full((len(genomes), self._outputs.shape[1]), np.nan)
        return self._problem.computed(genomes).copy()

    def _candidates(self, prediction: _Prediction) -> Genome:
        """What the inner search ends with and was not asked before, the best first."""
        space, size = self._problem.space, self._settings.survivors
        measured = self._genomes[self._measured()]
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
        found = evolve(prediction.mean, start, space.largest, self._layers, size, self._settings.generations, self._rng)
        return found[[genome.tobytes() not in self._seen for genome in found]]

    def _chosen(self, prediction: _Prediction, known: Genome, candidates: Genome, batch: int) -> list[int]:
        draws = self._settings.draws if self._problem.objectives < 3 else self._settings.draws // 4
        objectives, feasible = prediction.draws(np.vstack([known, candidates]), draws, self._rng)
        low, high = self._scale(objectives[:, : len(known)].mean(axis=0))
        scaled = (objectives - low) / (high - low)
        split = len(known)
        weights = feasible[:, split:] * prediction.success(candidates)
        reference = np.full(self._problem.objectives, 1.1)
        return choose_batch(scaled[:, :split], feasible[:, :split], scaled[:, split:], weights, reference, batch)

    def _scale(self, known: Objectives) -> tuple[Objectives, Objectives]:
        """What counts as 0 and as 1 of each objective: the range of the front and of the space's corners."""
        corners = anchors(self._problem.space)[:2]
        at_corner = [(self._genomes == corner).all(axis=1) for corner in corners]
        rows = rescaled(self._outputs[np.any(at_corner, axis=0) & self._measured()], self._logarithmic)
        rows = rows[:, : self._problem.objectives]
        points = np.vstack([known[best(known, np.zeros((len(known), 0)), 20)], rows])
        low, high = points.min(axis=0), points.max(axis=0)
        return low, np.where(high > low, high, low + 1.0)


@dataclass(frozen=True)
class _Prediction:
    """What is expected of genomes: computed where it can be, else from processes."""

    problem: DriverProblem
    features: FeatureMap
    computed: Callable[[Genome], Array]
    processes: dict[int, Process]
    succeeds: Process | None

    def mean(self, genomes: Genome) -> tuple[Objectives, Violations]:
        """Expected objectives and violations; a probable failure is a violation too."""
        features = self.features(genomes)
        outputs = self.computed(genomes)
        for i, process in self.processes.items():
            outputs[:, i] = process.mean(features)
        objectives, violations = np.split(outputs, [self.problem.objectives], axis=1)
        if self.succeeds is None:
            return objectives, violations
        return objectives, np.column_stack([violations, 0.5 - self._success(features)])

    def draws(self, genomes: Genome, count: int, rng: np.random.Generator) -> tuple[Array, Flags]:
        """Draws of the objectives, shape (count, genomes, objectives), and whether all constraints are met in each."""
        features = self.features(genomes)
        outputs = np.repeat(self.computed(genomes)[None], count, axis=0)
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
