"""Proposals that are exact: under budgets of what is computed, the least of what is expected to be lost.

At first that is the sum of a sensitivity over genes: a few of its front are measured, and then more where these differ
(see `nas_engine.drivers.surrogate.boxes`). Measurements correct it: what each choice of a block changes is
then read off the surrogate's prediction, the other blocks as in the best sub-network known to keep the budget, and once
more about the one that is found, so that what blocks lose together counts too. Budgets bound what is computed.
Constraints on what is measured bound none; of proposals, those that the surrogate expects to keep them go first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from nas_engine.arrays import Array
from nas_engine.drivers.additive import Additive, columns_of
from nas_engine.drivers.driver import DriverProblem
from nas_engine.drivers.effort import REPEATABLE
from nas_engine.drivers.exact_front import exact_front, spread_budgets
from nas_engine.drivers.initial import anchors, distinct
from nas_engine.drivers.operators import ordered_mutation
from nas_engine.drivers.ranking import best
from nas_engine.drivers.surrogate.boxes import beyond, box_midpoints
from nas_engine.drivers.surrogate.prediction import Prediction, computed_of
from nas_engine.drivers.surrogate.settings import SurrogateSettings
from nas_engine.errors import SearchError
from search_spaces import Genome

_BUDGETS = 12  # of a proposal
_ROUNDS = 2  # of solving about what was found before
_COST_WEIGHT = 0.5  # of a cost, beside what is expected to be lost, in how far genomes lie apart
_DENSE = 48  # solutions on the front along which the warm start goes, about
_ALONG = 3  # of them that are measured with the corners, before anything is known
_JOINT = 2000  # joint choices of all blocks, beyond which genes are predicted one by one
_WITH = "give a cost that is a sum over layers, such as ParameterCount(), WeightBytes() or a LatencyTable"


class Exact:
    """The exact front of expected losses under budgets, spread over them; then that of corrected losses.

    Args:
        problem: what is searched.
        settings: of the surrogate.
        rng: of all draws.

    Raises:
        SearchError: there is no sensitivity, not just one objective to be measured, no cost that is a sum over layers,
            or no sub-network that keeps all computed constraints.
    """

    def __init__(self, problem: DriverProblem, settings: SurrogateSettings, rng: np.random.Generator) -> None:
        self._problem, self._settings, self._rng = problem, settings, rng
        if problem.sensitivity is None:
            raise SearchError(
                "the driver milp needs to know beforehand what each gene may cost: give "
                "sensitivity=supernet.sensitivity(texts), or take the driver surrogate, which does without."
            )
        known = ~np.isnan(computed_of(problem, problem.space.largest[None])[0])
        objectives, columns = known[: problem.objectives], np.flatnonzero(known)
        if (~objectives).sum() != 1:
            raise SearchError(
                f"the driver milp foretells one objective that is measured, and {(~objectives).sum()} of these "
                f"{len(objectives)} are: bound the others by constraints (objectives=[...] names what is optimized), "
                "or take the driver surrogate."
            )
        self._measured = int(np.flatnonzero(~objectives)[0])
        if not len(columns):
            raise SearchError(f"the driver milp keeps budgets of what is computed, and nothing here is: {_WITH}.")
        sums = Additive.of(problem.space, problem.sensitivity, columns_of(partial(computed_of, problem), columns))
        if sums is None:
            raise SearchError(
                f"no sum over layers is among what is computed here, or too many genes interact: {_WITH}."
            )
        self._sums = sums
        # Constraints are kept by all; where no objective is computed, they are what is swept too.
        self._limits = np.where(columns < problem.objectives, np.inf, 0.0)
        swept = np.flatnonzero(columns < problem.objectives)
        self._swept = (swept if len(swept) else np.arange(len(columns))).tolist()
        within = exact_front(sums, self._limits[None], REPEATABLE)[0]
        if within is None:
            raise SearchError("no sub-network keeps all computed constraints together; raise their bounds.")
        self._within = within  # the best where nothing but constraints bounds
        self._hinted: list[Genome] | None = None
        self._line: Genome | None = None

    def first(self, count: int) -> Genome:
        """See `Proposals`."""
        corners = anchors(self._problem.space)
        if count <= len(corners):
            return corners
        given = distinct(np.vstack([corners, self._within.genome]))
        genomes = distinct(np.vstack([given, self._along()]))
        return genomes[self._apart(genomes, min(len(given), count), min(count, len(given) + _ALONG))]

    def more(self, genomes: Genome, outputs: Array, count: int) -> Genome:
        """See `Proposals`. Of what misses a constraint or failed nothing counts but that."""
        line = self._along()
        values, objectives = outputs[:, self._measured], self._problem.objectives
        kept = (outputs[:, objectives:] <= 0).all(axis=1) & ~np.isnan(values)
        told = {genome.tobytes(): place for place, genome in enumerate(genomes)}
        places = np.array([told.get(genome.tobytes(), -1) for genome in line])
        shown = np.where(places < 0, np.nan, beyond(values, kept)[places])
        return line[box_midpoints(self._spent(line), shown, count)]

    def _along(self) -> Genome:
        """The exact front of the expected losses, from what loses the least to the smallest sub-network."""
        if self._line is None:
            found = self._solved(self._budgets(_DENSE))
            line = distinct(np.vstack([self._within.genome, *found, self._problem.space.smallest]))
            self._line = line[np.lexsort((self._sums.losses_at(line), -self._spent(line)))]
        return self._line

    def _apart(self, genomes: Genome, first: int, count: int) -> list[int]:
        """The `first` genomes and up to `count` in all that lie far apart, each as far as possible from those before.

        Beyond two or three nats a network knows nothing, however far beyond, so that losses count by
        ``1 - exp(-loss)``; where these tell nothing apart, costs do, at half their weight.
        """
        places = self._places(genomes)
        places[:, 1:] *= _COST_WEIGHT
        chosen = list(range(first))
        distances = np.linalg.norm(places[:, None] - places[:first], axis=2).min(axis=1)
        while len(chosen) < min(count, len(genomes)):
            distances[chosen] = -1.0
            chosen.append(int(distances.argmax()))
            distances = np.minimum(distances, np.linalg.norm(places - places[chosen[-1]], axis=1))
        return chosen

    def _places(self, genomes: Genome) -> Array:
        """What `genomes` are expected to be worth, and their swept costs, in parts of what there is of each."""
        worth = 1 - np.exp(-self._sums.losses_at(genomes))
        costs = self._sums.costs_at(genomes)[:, self._swept] / np.maximum(self._sums.reach[self._swept], 1e-300)
        return np.column_stack([worth / max(float(np.ptp(worth)), 1e-300), costs])

    def _spent(self, genomes: Genome) -> Array:
        """The mean of their swept costs, in parts of what there is of each."""
        mean: Array = self._places(genomes)[:, 1:].mean(axis=1)
        return mean

    def candidates(self, prediction: Prediction, measured: Genome) -> Genome:
        """See `Proposals`."""
        budgets = self._budgets(_BUDGETS)
        if self._hinted is None:
            self._hinted = self._solved(budgets)
        pool = distinct(np.vstack([*self._hinted, measured]))
        found: list[Genome] = []
        for budget in budgets:
            found += self._about(self._best(prediction, pool, budget), budget, prediction)
            pool = distinct(np.vstack([pool, *found]))
        varied = ordered_mutation(np.vstack([*found, measured]), self._problem.space.largest, self._rng)
        new = distinct(np.vstack([*found, varied]))
        return new[best(*prediction.mean(new), self._settings.survivors)]

    def _solved(self, budgets: Array) -> list[Genome]:
        """What is expected to lose the least under each budget that something keeps."""
        return [found.genome for found in exact_front(self._sums, budgets, REPEATABLE) if found is not None]

    def _budgets(self, count: int) -> Array:
        turns = len(self._swept) + (len(self._swept) > 1)
        return spread_budgets(self._sums, -(-count // turns), self._swept, self._limits)

    def _best(self, prediction: Prediction, pool: Genome, budget: Array) -> Genome | None:
        """The genome of `pool` that is expected to lose the least of those that keep the budget, if one does."""
        keeps = pool[(self._sums.costs_at(pool) <= budget + 1e-9 * np.abs(budget)).all(axis=1)]
        return keeps[prediction.mean(keeps)[0][:, self._measured].argmin()] if len(keeps) else None

    def _about(self, place: Genome | None, budget: Array, prediction: Prediction) -> list[Genome]:
        """What is best under a budget where blocks lose what they do about `place`, and then about what that found."""
        found: list[Genome] = []
        for _ in range(_ROUNDS if place is not None else 0):
            assert place is not None
            sums = self._sums.with_losses(self._losses_about(place, prediction))
            solution = exact_front(sums, budget[None], REPEATABLE)[0]
            if solution is None or (solution.genome == place).all():
                break
            place = solution.genome
            found.append(place)
        return found

    def _losses_about(self, place: Genome, prediction: Prediction) -> Sequence[Array]:
        """What each block's choices are expected to lose, all else as in `place`."""
        sums = self._sums
        joint = sum(len(values) for values in sums.values) <= _JOINT
        moves = []
        for group, values in zip(sums.groups, sums.values, strict=True):
            if joint:
                genomes = np.repeat(place[None], len(values), axis=0)
                genomes[:, group] = values
                moves.append(genomes)
            else:  # each gene alone, in turn
                for i in group:
                    genomes = np.repeat(place[None], self._problem.space.cardinalities[i], axis=0)
                    genomes[:, i] = np.arange(len(genomes))
                    moves.append(genomes)
        expected = prediction.mean(np.vstack(moves))[0][:, self._measured]
        parts = np.split(expected, np.cumsum([len(genomes) for genomes in moves])[:-1])
        if joint:
            return parts
        by_gene = dict(zip([i for group in sums.groups for i in group], parts, strict=True))
        return [
            sum((by_gene[i][values[:, k]] for k, i in enumerate(group)), np.zeros(len(values)))
            for group, values in zip(sums.groups, sums.values, strict=True)
        ]
