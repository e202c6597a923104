"""What a search is after: which scores are to be optimized, what they must keep, and what a driver is told of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluators import Evaluator, sign_of
from nas_engine.drivers.driver import DriverProblem, Objectives, Violations
from nas_engine.errors import SearchError
from nas_engine.goal.computed import LayerTables, ScoreFunction, tabulate
from nas_engine.goal.constraints import Constraint, parse_constraints, violations
from nas_engine.magnitude import bounded
from search_spaces import Genome, SearchSpace


def positions_of(objectives: Sequence[str] | None, names: Sequence[str]) -> tuple[int, ...]:
    """Where the objectives are among the evaluators' names; None takes all.

    Raises:
        SearchError: an objective that no evaluator has, or none at all.
    """
    wanted = list(names) if objectives is None else list(objectives)
    unknown = [name for name in wanted if name not in names]
    if unknown or not wanted:
        what = f"{unknown[0]!r}" if unknown else "nothing"
        raise SearchError(f"objectives names {what}; choose among the evaluators: {', '.join(names)}.")
    return tuple(i for i, name in enumerate(names) if name in wanted)


def by_gene(sensitivity: Mapping[str, Sequence[float]], space: SearchSpace) -> tuple[npt.NDArray[np.float64], ...]:
    """The sensitivity of each gene of `space` in turn.

    Raises:
        SearchError: a gene is missing, or has another number of values, or one that is no number from 0 on.
    """
    found = []
    for gene in space.genes:
        values = np.array(sensitivity.get(gene.name, ()), dtype=float)
        if len(values) != len(gene) or not (np.isfinite(values) & (values >= 0)).all():
            raise SearchError(
                f"sensitivity has {values.tolist()} for {gene.name}, which needs a number from 0 on for each of "
                f"{', '.join(map(str, gene.values))}; take it from supernet.sensitivity(...) of the same super-network."
            )
        found.append(bounded(values))
    return tuple(found)


@dataclass(frozen=True)
class Goal:
    """Objectives and constraints over the scores of all evaluators.

    Scores come as rows of shape (batch, evaluators), all to be minimized: a score to be large is negated.

    Args:
        evaluators: in the order of the scores.
        optimized: positions of those that are to be optimized; the others only bound.
        constraints: what must be kept.
    """

    evaluators: tuple[Evaluator, ...]
    optimized: tuple[int, ...]
    constraints: tuple[Constraint, ...] = ()

    @classmethod
    def of(
        cls, evaluators: Sequence[Evaluator], objectives: Sequence[str] | None = None, constraints: Sequence[str] = ()
    ) -> Goal:
        """The goal that names and texts describe.

        Args:
            evaluators: what measures.
            objectives: names of those to be optimized; None takes all.
            constraints: as `parse_constraint` reads them.

        Raises:
            SearchError: an objective that no evaluator has, none at all, or a constraint that cannot be read.
        """
        names = [evaluator.name for evaluator in evaluators]
        return cls(tuple(evaluators), positions_of(objectives, names), parse_constraints(constraints, names))

    @property
    def signs(self) -> npt.NDArray[np.float64]:
        """What turns each evaluator's score into one to be minimized, shape (evaluators,)."""
        return np.array([sign_of(e.direction) for e in self.evaluators])

    def require_no_reference(self, why: str) -> None:
        """Check that no constraint refers to the largest sub-network.

        Args:
            why: it has no values.

        Raises:
            SearchError: one does.
        """
        if any(constraint.reference for constraint in self.constraints):
            raise SearchError(
                f"constraints refer to the largest sub-network, whose evaluation failed: {why}. Mend the evaluator and "
                "use another run folder, or give bounds as numbers."
            )

    def told(self, scores: Objectives, reference: Objectives | None) -> tuple[Objectives, Violations | None]:
        """What a driver is told of `scores`: objectives, and violations where there are constraints, none so large that
        it could not compute with them.

        Args:
            scores: shape (batch, evaluators).
            reference: of the largest sub-network, shape (evaluators,).

        Raises:
            SearchError: a constraint refers to the largest sub-network, whose evaluation failed.
        """
        objectives = bounded(scores[:, list(self.optimized)])
        if not self.constraints:
            return objectives, None
        if reference is None:
            self.require_no_reference("it was not measured")
            reference = np.full(len(self.evaluators), np.nan)
        names = [evaluator.name for evaluator in self.evaluators]
        values = dict(zip(names, (self.signs * scores).T, strict=True))
        largest = dict(zip(names, (self.signs * reference).tolist(), strict=True))
        return objectives, bounded(violations(self.constraints, values, largest))

    def problem(
        self,
        space: SearchSpace,
        score: Callable[[Evaluator, Genome], float],
        population: int,
        seed: int,
        budget: int,
        sensitivity: Mapping[str, Sequence[float]] | None = None,
    ) -> DriverProblem:
        """The driver's problem.

        Args:
            space: what genomes belong to.
            score: calls an evaluator that computes.
            population: of a generation.
            seed: of the driver.
            budget: evaluations at most.
            sensitivity: of the genes' values, by name; see `nas_engine.SuperNetwork.sensitivity`.

        Raises:
            SearchError: the sensitivity is not of this space.
        """
        computing = [i for i, e in enumerate(self.evaluators) if e.computed]
        computed = _Computed(self, space, {i: _scored(score, self.evaluators[i]) for i in computing})
        return DriverProblem(
            space,
            len(self.optimized),
            population,
            seed,
            len(self.constraints),
            computed if computing else None,
            budget,
            None if sensitivity is None else by_gene(sensitivity, space),
        )


class _Computed:
    """Objectives and violations that follow from sizes, tabulated when a driver first asks for them."""

    def __init__(self, goal: Goal, space: SearchSpace, scores: dict[int, ScoreFunction]) -> None:
        self._goal, self._space, self._scores = goal, space, scores
        self._tables: dict[int, LayerTables] | None = None

    def __call__(self, genomes: Genome) -> Objectives:
        """Shape (batch, objectives + constraints); NaN where it has to be measured."""
        if self._tables is None:
            made = {i: tabulate(score, self._space) for i, score in self._scores.items()}
            self._tables = {i: table for i, table in made.items() if table is not None}
        rows = self._rows(genomes)
        objectives, missed = self._goal.told(rows, self._rows(self._space.largest[None])[0])
        return objectives if missed is None else np.column_stack([objectives, missed])

    def _rows(self, genomes: Genome) -> Objectives:
        assert self._tables is not None
        rows = np.full((len(genomes), len(self._goal.evaluators)), np.nan)
        for i, table in self._tables.items():
            rows[:, i] = self._goal.signs[i] * table(genomes)
        return rows


def _scored(score: Callable[[Evaluator, Genome], float], evaluator: Evaluator) -> ScoreFunction:
    return lambda genome: score(evaluator, genome)
