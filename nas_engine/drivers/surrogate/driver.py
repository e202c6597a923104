"""A driver for expensive evaluations: it predicts what an evaluation would say, and asks for what promises most.

The plan follows predictor-guided search (LINAS in DyNAS-T; Daulton et al., 2021, for the batch): a warm start, a
process for each number that has to be measured, an evolutionary search on the predictions, and the batch of the
largest expected gain in hypervolume. What is computed from sizes is never predicted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from nas_engine.arrays import Array, Flags
from nas_engine.drivers.driver import DriverProblem, Objectives, Violations
from nas_engine.drivers.initial import anchors, unseen
from nas_engine.drivers.ranking import best
from nas_engine.drivers.surrogate.features import FeatureMap
from nas_engine.drivers.surrogate.gain import choose_batch
from nas_engine.drivers.surrogate.prediction import Prediction, computed_of
from nas_engine.drivers.surrogate.process import Process
from nas_engine.drivers.surrogate.proposals import Evolved, Proposals
from nas_engine.drivers.surrogate.scale import explains_better, rescaled, within_reach, without_hopeless
from nas_engine.drivers.surrogate.settings import SurrogateSettings
from search_spaces import Genome

_WARM = 8  # genomes that the warm start has at least
_LEARNABLE = 4  # successful evaluations without which nothing is predicted
_FRONT = 20  # points of the front whose range is what objectives are measured by
_LIKELY = 0.5  # of the draws in which what was evaluated keeps the constraints


class SurrogateDriver:
    """Warm start, prediction, inner search, expected hypervolume gain.

    Args:
        problem: what is searched; the warm start has one genome more than the space has genes, at least 8 and at most
            the population.
        settings: how much work goes into a proposal.
        proposals: where the warm start and candidates come from.
    """

    asynchronous: ClassVar[bool] = False

    def __init__(
        self,
        problem: DriverProblem,
        settings: SurrogateSettings | None = None,
        proposals: Callable[[DriverProblem, SurrogateSettings, np.random.Generator], Proposals] = Evolved,
    ) -> None:
        self._problem = problem
        self._settings = settings or SurrogateSettings()
        self._rng = np.random.default_rng(problem.seed)
        self._proposals = proposals(problem, self._settings, self._rng)
        self._features = FeatureMap(problem.space, problem.sensitivity)
        self._genomes = np.empty((0, len(problem.space)), dtype=np.int64)
        self._outputs = np.empty((0, problem.objectives + problem.constraints))
        self._seen: set[bytes] = set()
        self._variances: dict[int, Array] = {}  # log-variances of the process of each output
        self._logarithmic = np.zeros(self._outputs.shape[1], dtype=bool)  # outputs predicted as logarithms
        self._fitted_at = 0

    def ask(self) -> Genome:
        """The warm start, later a batch that promises most; empty once the space is exhausted."""
        asked = self._warming()
        if not len(asked):
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

    def _warming(self) -> Genome:
        """What the warm start asks next; nothing once it is over."""
        warm = min(self._problem.population, max(_WARM, len(self._problem.space) + 1))
        if not self._seen:
            return self._proposals.first(warm)
        left = min(warm - len(self._genomes), self._batch())
        return self._proposals.more(self._genomes, self._outputs, left) if left > 0 else self._genomes[:0]

    def _batch(self) -> int:
        """How many genomes are asked next."""
        largest = max(1, self._problem.population // 4)
        return self._settings.batch or min(max(2, len(self._genomes) // 10), largest)

    def _measured(self) -> Flags:
        """Which of the told evaluations succeeded."""
        return np.asarray(~np.isnan(self._outputs).any(axis=1))

    def _proposed(self, batch: int) -> Genome:
        prediction = self._fit()
        measured = self._genomes[self._measured()]
        candidates = self._proposals.candidates(prediction, measured)
        candidates = candidates[[genome.tobytes() not in self._seen for genome in candidates]]
        if not len(candidates):
            return candidates
        objectives, violations = prediction.mean(measured)
        known = measured[best(objectives, violations, self._settings.known)]
        chosen = self._chosen(prediction, known, candidates, batch)
        # Where nothing is expected to gain, the inner search's order decides.
        filled = [*chosen, *(i for i in range(len(candidates)) if i not in chosen)][:batch]
        return candidates[filled]

    def _fit(self) -> Prediction:
        """A process for each output that is not computed, and one for whether an evaluation succeeds."""
        succeeded = self._measured()
        genomes, outputs = self._genomes[succeeded], self._outputs[succeeded]
        split = self._problem.objectives
        features, processes = self._features(genomes), {}
        measured = np.flatnonzero(np.isnan(computed_of(self._problem, genomes[:1])[0])).tolist()
        refit = len(self._genomes) >= self._settings.refit * self._fitted_at
        if refit:
            self._fitted_at = len(self._genomes)
            for i in measured:
                self._logarithmic[i] = i < split and explains_better(features, outputs[:, i])
        self._logarithmic &= (outputs > 0).all(axis=0)  # also what came since
        outputs = rescaled(outputs, self._logarithmic)
        outputs = np.column_stack([without_hopeless(outputs[:, :split]), within_reach(outputs[:, split:])])
        for i in measured:
            processes[i] = Process(features, outputs[:, i], self._variances.get(i), refit or i not in self._variances)
            self._variances[i] = processes[i].log_variances
        success = None
        if not succeeded.all():
            success = Process(self._features(self._genomes), succeeded.astype(float), refit=len(succeeded) < 400)
        return Prediction(self._problem, self._features, processes, success)

    def _chosen(self, prediction: Prediction, known: Genome, candidates: Genome, batch: int) -> list[int]:
        draws = self._settings.draws if self._problem.objectives < 3 else self._settings.draws // 4
        objectives, feasible = prediction.draws(np.vstack([known, candidates]), draws, self._rng)
        split = len(known)
        low, high = self._scale(objectives[:, :split].mean(axis=0), feasible[:, :split].mean(axis=0) >= _LIKELY)
        scaled = (objectives - low) / (high - low)
        weights = feasible[:, split:] * prediction.success(candidates)
        reference = np.full(self._problem.objectives, 1.1)
        return choose_batch(scaled[:, :split], feasible[:, :split], scaled[:, split:], weights, reference, batch)

    def _scale(self, known: Objectives, feasible: Flags) -> tuple[Objectives, Objectives]:
        """What counts as 0 and as 1 of each objective: the range of the front and of the space's corners, of what keeps
        the constraints where that tells anything apart.
        """
        corners = anchors(self._problem.space)[:2]
        at_corner = [(self._genomes == corner).all(axis=1) for corner in corners]
        rows = self._outputs[np.any(at_corner, axis=0) & self._measured()]
        kept = (rows[:, self._problem.objectives :] <= 0).all(axis=1)
        rows = rescaled(rows, self._logarithmic)[:, : self._problem.objectives]
        low, high = _range(known[feasible], rows[kept])
        anyhow, most = _range(known, rows)
        apart = high > low
        low, high = np.where(apart, low, anyhow), np.where(apart, high, most)
        return low, np.where(high > low, high, low + 1.0)


def _range(known: Objectives, corners: Objectives) -> tuple[Objectives, Objectives]:
    """The least and the most of the front of `known` and of the corners; of nothing, an empty range."""
    points = np.vstack([known[best(known, np.zeros((len(known), 0)), _FRONT)], corners])
    return points.min(axis=0, initial=np.inf), points.max(axis=0, initial=-np.inf)
