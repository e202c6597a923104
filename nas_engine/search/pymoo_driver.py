"""NSGA-II (Deb et al., 2002) as pymoo has it, on integer genomes."""

from __future__ import annotations

from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.evaluator import Evaluator
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.problems.static import StaticProblem

from nas_engine.search.driver import Objectives
from nas_engine.search.initial import first_generation
from search_spaces import Genome, SearchSpace

_FAILED = 1e30  # objective of a failed evaluation; its constraint violation keeps it behind every other


class OrderedMutation(Mutation):  # type: ignore[misc]
    """Changes each gene with probability 1 / genes: to a neighbouring value mostly, else to any other.

    Rounded real-valued mutation leaves a gene of two or three values as it was nearly always; this one never does.

    Args:
        leap: probability that a mutated gene leaps to any other value instead of a step.
    """

    def __init__(self, leap: float = 0.3) -> None:
        super().__init__(prob=1.0)
        self.leap = leap

    def _do(self, problem: Problem, X: Genome, *args: Any, random_state: np.random.Generator, **kwargs: Any) -> Genome:
        top = problem.xu.astype(np.int64)  # (genes,) the largest index of each gene
        X = X.astype(np.int64)
        mutated = random_state.random(X.shape) < 1 / X.shape[1]
        steps = np.where(random_state.random(X.shape) < 0.5, -1, 1)
        steps = np.where((X + steps < 0) | (X + steps > top), -steps, steps)  # a step off the end turns round
        # An offset from 1 to n - 1, modulo n, reaches every other value alike.
        leaps = (X + random_state.integers(1, np.maximum(top, 1) + 1, X.shape)) % (top + 1)
        moved = np.where(random_state.random(X.shape) < self.leap, leaps, X + steps)
        return np.where(mutated, moved, X)


class PymooNsga2:
    """pymoo's NSGA-II behind ask and tell: uniform crossover, `OrderedMutation`, duplicates eliminated.

    Args:
        space: what genomes belong to.
        objectives: how many numbers each evaluation gives.
        population: of a generation.
        seed: of the first generation and of the operators.
    """

    def __init__(self, space: SearchSpace, objectives: int, population: int, seed: int) -> None:
        initial = first_generation(space, population, np.random.default_rng(seed))
        self._genes = len(space)
        self._problem = Problem(n_var=len(space), n_obj=objectives, n_ieq_constr=1, xl=0, xu=space.largest, vtype=int)
        self._algorithm = NSGA2(
            pop_size=len(initial),
            sampling=initial,
            crossover=UniformCrossover(prob=0.9),
            mutation=OrderedMutation(),
            eliminate_duplicates=True,
        )
        self._algorithm.setup(self._problem, termination=NoTermination(), seed=seed)

    def ask(self) -> Genome:
        """The next generation; empty once crossover and mutation find nothing new."""
        self._asked = self._algorithm.ask()
        if self._asked is None or len(self._asked) == 0:
            return np.empty((0, self._genes), dtype=np.int64)
        genomes: Genome = np.asarray(self._asked.get("X")).astype(np.int64)
        return genomes

    def tell(self, genomes: Genome, objectives: Objectives) -> None:
        """Learn a generation; failed genomes count as infeasible."""
        failed = np.isnan(objectives).any(axis=1, keepdims=True)
        values = np.where(failed, _FAILED, objectives)
        static = StaticProblem(self._problem, F=values, G=failed.astype(float))
        Evaluator().eval(static, self._asked)
        self._algorithm.tell(infills=self._asked)
