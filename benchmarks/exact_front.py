"""How long the exact front of summed losses takes, and what it is worth with nothing evaluated.

On `lonas96`, and on `measured` where `benchmarks/data` has its table and sensitivity: processor seconds of 20 budgets,
the same by HiGHS alone within a relative gap, and the hypervolume of the forecasts' true objectives, scaled as in
`benchmarks.search_drivers`.

Run as ``python -m benchmarks.exact_front [--quick] [--budgets 20] [--gap 0.001]``. Keys of the last line, each by
problem: `seconds`, `highs_seconds`, `hypervolume`.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks._common import arguments, print_json
from benchmarks._search_problem import BenchmarkProblem
from benchmarks.search_drivers import problems, volumes
from nas_engine.drivers.additive import Additive, columns_of
from nas_engine.drivers.effort import EXACT, Effort
from nas_engine.drivers.exact_front import exact_front, spread_budgets
from search_spaces import Genome


def forecasts(problem: BenchmarkProblem, sums: Additive, budgets: int, effort: Effort) -> tuple[float, float]:
    """Processor seconds of a front, and the hypervolume of its true objectives."""
    started = time.process_time()
    found = exact_front(sums, spread_budgets(sums, budgets), effort)
    seconds = time.process_time() - started
    genomes: Genome = np.unique(np.stack([solution.genome for solution in found if solution is not None]), axis=0)
    return seconds, float(volumes(problem, genomes, len(genomes))[-1])


def main() -> None:
    """Solve, and print one JSON object last."""
    parser = arguments(__doc__)
    parser.add_argument("--budgets", type=int, default=20)
    parser.add_argument("--gap", type=float, default=0.001, help="of HiGHS alone, relative to the loss")
    given = parser.parse_args()
    figures: dict[str, dict[str, Any]] = {"seconds": {}, "highs_seconds": {}, "hypervolume": {}}
    for name, make in problems(["lonas96"] if given.quick else ["lonas96", "measured"]).items():
        problem = make()
        computed, sensitivity = problem.computed, problem.sensitivity
        assert computed is not None
        assert sensitivity is not None
        known = np.flatnonzero(~np.isnan(computed(problem.space.largest[None])[0]))
        sums = Additive.of(problem.space, sensitivity, columns_of(computed, known))
        assert sums is not None
        budgets = 3 if given.quick else given.budgets
        seconds, volume = forecasts(problem, sums, budgets, EXACT)
        print(f"{name:10} {seconds:.2f} s, hypervolume {volume:.4f}", flush=True)
        by_highs, _ = forecasts(problem, sums, budgets, Effort(given.gap, nodes=1 if given.quick else None, sums=0))
        print(f"{name:10} {by_highs:.2f} s by HiGHS within {given.gap:g}", flush=True)
        figures["seconds"][name], figures["highs_seconds"][name] = round(seconds, 3), round(by_highs, 2)
        figures["hypervolume"][name] = round(volume, 4)
    print_json(figures)


if __name__ == "__main__":
    main()
