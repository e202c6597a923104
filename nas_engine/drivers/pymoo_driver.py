"""pymoo's multi-objective algorithms behind ask and tell, on integer genomes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pymoo.algorithms.moo.moead import ParallelMOEAD
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.algorithms.moo.sms import SMSEMOA
from pymoo.algorithms.moo.unsga3 import UNSGA3
from pymoo.core.algorithm import Algorithm
from pymoo.core.evaluator import Evaluator
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.problems.static import StaticProblem
from pymoo.util.ref_dirs import get_reference_directions

from nas_engine.drivers.driver import DriverProblem, Objectives, Violations
from nas_engine.drivers.initial import first_generation, unseen
from nas_engine.drivers.operators import LayerCrossover, OrderedMutation, first_layers, later_rates
from nas_engine.errors import SearchError
from nas_engine.magnitude import bounded
from search_spaces import Genome

_FAILED = 1e30  # objective of a failed evaluation; its constraint violation keeps it behind every other
_PATIENCE = 20  # generations without a new genome before a random one takes the turn
AlgorithmFactory = Callable[[DriverProblem, dict[str, Any]], Algorithm]


def nsga2(problem: DriverProblem, common: dict[str, Any]) -> Algorithm:
    """NSGA-II (Deb et al., 2002)."""
    return NSGA2(**common)


def nsga2_layers(problem: DriverProblem, common: dict[str, Any]) -> Algorithm:
    """NSGA-II whose crossover cuts between layers and whose mutation prefers late ones: children share first layers."""
    layers = first_layers(problem.space)
    operators = {"crossover": LayerCrossover(layers), "mutation": OrderedMutation(rates=later_rates(layers))}
    return NSGA2(**common | operators)


def nsga3(problem: DriverProblem, common: dict[str, Any]) -> Algorithm:
    """NSGA-III (Deb and Jain, 2014)."""
    return NSGA3(_directions(problem.objectives, common["pop_size"]), **common)


def unsga3(problem: DriverProblem, common: dict[str, Any]) -> Algorithm:
    """U-NSGA-III (Seada and Deb, 2016)."""
    return UNSGA3(_directions(problem.objectives, common["pop_size"]), **common)


def age_moea(problem: DriverProblem, common: dict[str, Any]) -> Algorithm:
    """AGE-MOEA (Panichella, 2019); pymoo's needs numba.

    Raises:
        SearchError: numba is not installed.
    """
    try:
        from pymoo.algorithms.moo.age import AGEMOEA
    except Exception as error:  # pymoo raises a plain Exception
        raise SearchError("driver 'age-moea' needs numba: pip install 'nas-engine[age-moea]'.") from error
    return AGEMOEA(**common)


def sms_emoa(problem: DriverProblem, common: dict[str, Any]) -> Algorithm:
    """SMS-EMOA (Beume et al., 2007), a generation at once; NSGA-II for one objective, which has no hypervolume."""
    return SMSEMOA(**common) if problem.objectives > 1 else NSGA2(**common)


def moead(problem: DriverProblem, common: dict[str, Any]) -> Algorithm:
    """MOEA/D (Zhang and Li, 2007), a generation at once; constraints become penalties."""
    directions = _directions(problem.objectives, common["pop_size"])
    if problem.objectives == 1:
        directions = np.ones((common["pop_size"], 1))
    operators = {name: common[name] for name in ("crossover", "mutation")}
    return ParallelMOEAD(
        directions, n_neighbors=min(5, len(directions)), sampling=common["sampling"][: len(directions)], **operators
    )


class PymooDriver:
    """A pymoo algorithm: uniform crossover, `OrderedMutation`, no genome twice.

    Args:
        problem: what is searched.
        algorithm: makes the algorithm of the problem and the settings that all algorithms share.
    """

    asynchronous: ClassVar[bool] = False

    def __init__(self, problem: DriverProblem, algorithm: AlgorithmFactory = nsga2) -> None:
        self._space = problem.space
        rng = np.random.default_rng(problem.seed)
        initial = first_generation(problem.space, problem.population, rng)
        common = {
            "pop_size": len(initial),
            "sampling": initial,
            "crossover": UniformCrossover(prob=0.9),
            "mutation": OrderedMutation(),
            "eliminate_duplicates": True,
        }
        self._algorithm = algorithm(problem, common)
        self._penalized = isinstance(self._algorithm, ParallelMOEAD)
        self._problem = Problem(
            n_var=len(problem.space),
            n_obj=problem.objectives,
            n_ieq_constr=0 if self._penalized else problem.constraints + 1,
            xl=0,
            xu=problem.space.largest,
            vtype=int,
        )
        self._algorithm.setup(self._problem, termination=NoTermination(), seed=problem.seed)
        self._rng = np.random.default_rng([problem.seed, 1])
        self._known: dict[bytes, tuple[Objectives, Violations]] = {}
        self._scale: tuple[Objectives, Objectives] | None = None
        self._population = problem.population
        self._generation: Population | None = None

    def ask(self) -> Genome:
        """What is new in the next generation; random genomes once the algorithm finds nothing new; empty at the end."""
        for _ in range(_PATIENCE):
            self._generation = self._algorithm.ask()
            if self._generation is None or len(self._generation) == 0:
                break
            genomes = self._genomes()
            fresh = {g.tobytes(): g for g in genomes if g.tobytes() not in self._known}
            if fresh:
                return np.array(list(fresh.values()))
            self._advance()
        self._generation = None
        return unseen(self._space, self._known, self._population, self._rng)

    def tell(self, genomes: Genome, objectives: Objectives, violations: Violations | None = None) -> None:
        """Learn a generation; failed genomes count as infeasible, behind all others."""
        if violations is None:
            violations = np.empty((len(genomes), 0))
        for genome, values, row in zip(genomes, objectives, violations, strict=True):
            self._known[genome.tobytes()] = values, _missed(row, bool(np.isnan(values).any()), len(self._known))
        if self._generation is not None:
            self._advance()

    def _genomes(self) -> Genome:
        assert self._generation is not None, "tell comes after ask"
        return np.asarray(self._generation.get("X")).astype(np.int64)

    def _advance(self) -> None:
        """Tell the algorithm its generation, of which all is known now."""
        known = [self._known[genome.tobytes()] for genome in self._genomes()]
        objectives, missed = (np.array(column) for column in zip(*known, strict=True))
        failed = np.isnan(objectives).any(axis=1, keepdims=True)
        values = np.where(failed, _FAILED, self._scaled(objectives))
        if self._penalized:
            behind = missed.sum(axis=1, keepdims=True)
            static = StaticProblem(self._problem, F=np.where(behind > 0, 1e6 * (1 + behind), values))
        else:
            static = StaticProblem(self._problem, F=values, G=missed)
        Evaluator().eval(static, self._generation)
        self._algorithm.tell(infills=self._generation)

    def _scaled(self, objectives: Objectives) -> Objectives:
        """Objectives on the first generation's scale, as decomposition and 12-digit rounding need it."""
        if self._scale is None:
            measured = objectives[~np.isnan(objectives).any(axis=1)]
            if not len(measured):
                return objectives
            low, high = measured.min(axis=0), measured.max(axis=0)
            self._scale = low, np.where(high > low, high - low, 1.0)
        low, spread = self._scale
        return bounded((objectives - low) / spread)


def _missed(violations: Violations, failed: bool, age: int) -> Violations:
    """By how much an evaluation misses each constraint and, last, whether it failed; shape (constraints + 1,).

    No two infeasible ones are equal, since pymoo's tournaments draw between equals without a seed or not at all.
    """
    missed = np.zeros_like(violations) if failed else np.maximum(violations, 0.0)
    infeasible = failed or bool((missed > 0).any())
    return np.append(missed, 1e6 * failed + 1e-9 * (age + 1) * infeasible)


def _directions(objectives: int, population: int) -> npt.NDArray[np.float64]:
    """As many evenly spread directions (Das and Dennis, 1998) as fit the population, shape (directions, objectives)."""
    partitions = 1
    while objectives > 1 and math.comb(partitions + objectives, objectives - 1) <= population:
        partitions += 1
    directions: npt.NDArray[np.float64] = get_reference_directions("das-dennis", objectives, n_partitions=partitions)
    return directions
