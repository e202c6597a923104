"""syne-tune's multi-objective regularized evolution as a baseline: whittle's search, where syne-tune is installed.

syne-tune is no dependency; in an environment beside this project's, ``pip install --no-deps syne-tune==0.16.0`` is
enough for it.
"""

from __future__ import annotations

import importlib.util
from typing import Any, ClassVar

import numpy as np

from nas_engine.drivers.driver import DriverProblem, Objectives, Violations
from search_spaces import Genome

INSTALLED = importlib.util.find_spec("syne_tune") is not None


class SyneTune:
    """One genome at a time; it may ask for one again, as syne-tune then pays for it again. It knows no constraints.

    Args:
        problem: what is searched.
    """

    asynchronous: ClassVar[bool] = False

    def __init__(self, problem: DriverProblem) -> None:
        from syne_tune.config_space import randint
        from syne_tune.optimizer.schedulers.multiobjective import MultiObjectiveRegularizedEvolution

        self._names = list(problem.space.names)
        tops = [len(gene) - 1 for gene in problem.space.genes]
        self._searcher = MultiObjectiveRegularizedEvolution(
            {name: randint(0, top) for name, top in zip(self._names, tops, strict=True)},
            population_size=problem.population,
            random_seed=problem.seed,
        )
        self._asked: dict[str, Any] = {}
        self._trials = 0

    def ask(self) -> Genome:
        """As `Driver` says."""
        self._asked = self._searcher.suggest()
        return np.array([[self._asked[name] for name in self._names]], dtype=np.int64)

    def tell(self, genomes: Genome, objectives: Objectives, violations: Violations | None = None) -> None:
        """As `Driver` says."""
        self._searcher.on_trial_complete(self._trials, self._asked, objectives[0].tolist())
        self._trials += 1
