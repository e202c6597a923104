"""pymoo's ZDT, DTLZ and MW problems (Zitzler et al., 2000; Deb et al., 2002; Ma and Wang, 2019) on a grid.

Every variable takes 11 evenly spaced values of its range, so that genes are ordered integers. Known fronts are those
of the continuous problems; on the grid they are met nearly but not always exactly. Nothing is known without an
evaluation, and nothing is noisy. MW problems are constrained. Those whose front pymoo would have to download are left
out.
"""

from __future__ import annotations

import numpy as np
from pymoo.problems import get_problem

from benchmarks._search_problem import BenchmarkProblem, Scores
from search_spaces import Choice, Genome, SearchSpace

VALUES = 11
PYMOO_PROBLEMS = ("zdt1", "zdt2", "zdt3", "zdt4", "zdt6", "dtlz1", "dtlz2", "dtlz4", "mw1", "mw2", "mw3", "mw6")


def pymoo_problem(name: str) -> BenchmarkProblem:
    """One of `PYMOO_PROBLEMS` with its own number of variables (DTLZ: 10 for 3 objectives)."""
    problem = get_problem(name, n_var=10, n_obj=3) if name.startswith("dtlz") else get_problem(name)
    grid = np.linspace(problem.xl, problem.xu, VALUES, axis=1)  # (variables, values)
    columns = np.arange(problem.n_var)
    space = SearchSpace.of(
        [Choice(f"layers.{i}.x", tuple(range(VALUES)), (f"layers.{i}.x",), "variable") for i in columns.tolist()]
    )

    def true(genomes: Genome) -> Scores:
        found = problem.evaluate(grid[columns, genomes], return_as_dictionary=True, return_values_of=["F", "G"])
        return found["F"], found["G"].reshape(len(genomes), -1)

    front = problem.pareto_front()
    ideal, nadir = front.min(axis=0), front.max(axis=0)
    far, _ = true(space.sample(np.random.default_rng(0), 1000))
    reference = ((far - ideal) / (nadir - ideal)).max(axis=0)
    return BenchmarkProblem(space, true, lambda genomes, _: true(genomes), ideal, nadir, reference)
