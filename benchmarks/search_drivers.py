"""How many evaluations each search driver needs: equal budgets, many seeds, medians and quartiles.

Problems: ``lonas96`` (see `benchmarks._lonas96`), pymoo's ZDT, DTLZ and MW problems on a grid of 11 values a variable,
and ``measured``, a table of real measurements, where `benchmarks/data` has one (see `benchmarks._table`).

Baselines: ``plain-nsga2`` is pymoo's NSGA-II with its own defaults for integers (random start, simulated binary
crossover and polynomial mutation, rounded). ``optuna-nsga2``, ``optuna-tpe`` and ``random`` are Optuna's samplers and
random search as this project runs them: they begin with the largest, smallest and median sub-network, which makes
them stronger than from scratch. ``syne-tune``, where it is installed, is its multi-objective regularized evolution,
which whittle searches by (see `benchmarks._syne_tune`).

Hypervolume is that of the *true* objectives of everything evaluated: drivers see noisy scores, the yardstick has no
noise (in a measured table the table's scores are the truth). Objectives are scaled so that the better of the largest
and the smallest sub-network is 0 and the worse 1, up to 10 % beyond; for pymoo's problems, from the ideal to the
nadir of the known front, up to the distance of the worst of 1,000 random points. Infeasible genomes do not count.

``NAME+hint`` is a driver told a sensitivity, where a problem has one: lonas96's, off by a factor a gene, and the
measured table's, of which 64 texts were asked beforehand. ``milp`` always is.

Run as ``python -m benchmarks.search_drivers [--quick] [--seeds 20] [--problems lonas96,zdt1] [--drivers
surrogate,nsga2] [--figures FOLDER]``. Keys of the last line, each by problem and driver: `evaluations_to_nsga2_200`,
evaluations after which the median run has the hypervolume that the median run of ``plain-nsga2`` has at the end
(null: not within the budget, or there is none);
`evaluations_to_ordered_nsga2_200`, the same for this project's ``nsga2``, which starts from the corners and steps in
order; `wins_of_20`, seeds in which a driver ends ahead of every baseline; `hypervolume`, quartiles at the end;
`hypervolume_after`, medians after 3, 20, 50 and 200 evaluations;
`engine_ms_per_evaluation`, processor time of asking and telling, by driver.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from moocore import hypervolume, is_nondominated
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling

from benchmarks._cliff import chance_problem, cliff_problem
from benchmarks._common import arguments, print_json
from benchmarks._discrete_problems import PYMOO_PROBLEMS, pymoo_problem
from benchmarks._lonas96 import lonas_problem
from benchmarks._search_problem import BenchmarkProblem
from benchmarks._syne_tune import INSTALLED, SyneTune
from benchmarks._table import TABLE, table_problem
from nas_engine.drivers.driver import DriverProblem
from nas_engine.drivers.pymoo_driver import PymooDriver
from nas_engine.drivers.registry import DRIVERS, NEEDS_SENSITIVITY, DriverFactory
from search_spaces import Genome

Array = npt.NDArray[np.float64]
BASELINES = ("plain-nsga2", "optuna-nsga2", "optuna-tpe", "random", "syne-tune")
POPULATION = 20
AFTER = (3, 20, 50, 200)  # evaluations: the corners and the median alone, the first generation, and then
HINT = "+hint"  # after the name of a driver that is told the sensitivity; those that need one always are


class PlainNsga2(PymooDriver):
    """pymoo's NSGA-II with its defaults for integers, started at random; the baseline."""

    def __init__(self, problem: DriverProblem) -> None:
        def plain(problem: DriverProblem, common: dict[str, Any]) -> NSGA2:
            return NSGA2(
                pop_size=problem.population,
                sampling=IntegerRandomSampling(),
                crossover=SBX(eta=15, prob=0.9, vtype=float, repair=RoundingRepair()),
                mutation=PM(eta=20, vtype=float, repair=RoundingRepair()),
                eliminate_duplicates=True,
            )

        super().__init__(problem, plain)


@dataclass(frozen=True)
class Trace:
    """One search.

    Args:
        volumes: hypervolume after each evaluation, shape (evaluations,).
        engine_seconds: of processor time spent in the driver, all together.
    """

    volumes: Array
    engine_seconds: float


def run(problem: BenchmarkProblem, make: DriverFactory, evaluations: int, seed: int, hinted: bool = False) -> Trace:
    """Search `problem`; measurements and driver are seeded alike, and the driver may be told the sensitivity."""
    noise = np.random.default_rng([1, seed])
    seconds = -time.process_time()
    driver = make(problem.driver_problem(POPULATION, seed, evaluations, hinted))
    seconds += time.process_time()
    asked: list[Genome] = []
    while sum(map(len, asked)) < evaluations:
        started = time.process_time()
        genomes = driver.ask()
        seconds += time.process_time() - started
        if not len(genomes):
            break
        asked.append(genomes)
        objectives, violations = problem.measure(genomes, noise)
        started = time.process_time()
        driver.tell(genomes, objectives, violations)
        seconds += time.process_time() - started
    genomes = np.vstack(asked)[:evaluations]
    return Trace(volumes(problem, genomes, evaluations), seconds)


def volumes(problem: BenchmarkProblem, genomes: Genome, evaluations: int) -> Array:
    """Hypervolume of the true objectives after each evaluation; the last one again where a search ended early."""
    objectives, violations = problem.true(genomes)
    scaled = (objectives - problem.ideal) / (problem.nadir - problem.ideal)
    front, volume, found = np.empty((0, scaled.shape[1])), 0.0, []
    for row, missed in zip(scaled, violations, strict=True):
        if (missed <= 0).all() and (row < problem.reference).all() and not (front <= row).all(axis=1).any():
            front = np.vstack([front, row])
            front = front[is_nondominated(front)]
            volume = float(hypervolume(front, ref=problem.reference))
        found.append(volume)
    return np.array(found + [volume] * (evaluations - len(found)))


def median_reaching(curves: Array, target: float) -> float | None:
    """After how many evaluations the median of `curves`, shape (seeds, evaluations), reaches `target`, or None."""
    if target <= 0:
        return None
    reached = np.where((curves >= target).any(axis=1), (curves >= target).argmax(axis=1) + 1.0, np.inf)
    median = float(np.median(reached))
    return median if np.isfinite(median) else None


def summary(traces: dict[str, list[Trace]]) -> dict[str, dict[str, Any]]:
    """Figures of one problem by driver."""
    curves = {name: np.stack([t.volumes for t in runs]) for name, runs in traces.items()}  # each (seeds, evaluations)
    figures: dict[str, dict[str, Any]] = {"wins_of_20": {}, "hypervolume": {}}
    targets = {"evaluations_to_nsga2_200": "plain-nsga2", "evaluations_to_ordered_nsga2_200": "nsga2"}
    for key, name in targets.items():
        if name in curves:
            target = float(np.median(curves[name][:, -1]))
            figures[key] = {other: median_reaching(runs, target) for other, runs in curves.items()}
    for name, runs in curves.items():
        others = [curves[b][:, -1] for b in BASELINES if b in curves and b != name]
        figures["wins_of_20"][name] = int((runs[:, -1] > np.max(others, axis=0)).sum()) if others else None
        figures["hypervolume"][name] = np.quantile(runs[:, -1], [0.25, 0.5, 0.75]).round(4).tolist()
        medians = np.median(runs, axis=0)
        after = {str(n): round(float(medians[n - 1]), 4) for n in AFTER if n <= len(medians)}
        figures.setdefault("hypervolume_after", {})[name] = after
    return figures


def draw(traces: dict[str, list[Trace]], problem: str, folder: Path) -> None:
    """Median hypervolume over evaluations, a line a driver, baselines in grey, as a PNG in `folder`.

    Bands are the quartiles of the surrogate and of plain NSGA-II.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4))
    colours = mpl.colormaps["tab20"].colors  # type: ignore[attr-defined]
    axes.set_prop_cycle(color=[*colours[::2], *colours[1::2]])  # strong ones first, none twice
    styles = ["--", "-.", ":", (0, (1, 3)), (0, (6, 3))]
    ordered = sorted(traces, key=lambda name: -np.median([t.volumes[-1] for t in traces[name]]))
    for name in ordered:
        runs = np.stack([t.volumes for t in traces[name]])
        low, middle, high = np.quantile(runs, [0.25, 0.5, 0.75], axis=0)
        count = np.arange(1, len(middle) + 1)
        baseline = name in BASELINES
        look = {"color": "0.35", "linestyle": styles[BASELINES.index(name)]} if baseline else {}
        (line,) = axes.plot(count, middle, label=name, linewidth=2.0 if name == "surrogate" else 1.1, **look)
        if name in ("surrogate", "plain-nsga2"):  # bands of all would hide each other
            axes.fill_between(count, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="evaluations", ylabel="hypervolume of true objectives", title=problem)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.tight_layout()
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"search_{problem}.png", dpi=200)
    plt.close(figure)


def problems(wanted: Sequence[str]) -> dict[str, Callable[[], BenchmarkProblem]]:
    """The wanted problems by name, made when they are run; none wanted takes all that there are."""
    known: dict[str, Callable[[], BenchmarkProblem]] = {"lonas96": lonas_problem}
    known |= {"cliff": cliff_problem, "chance": chance_problem}
    if TABLE.exists():
        known["measured"] = table_problem
    known |= {name: (lambda name=name: pymoo_problem(name)) for name in PYMOO_PROBLEMS}
    return {name: known[name] for name in wanted or known}


def main() -> None:
    """Search, print medians and quartiles, and one JSON object last."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--problems", default="", help="names, separated by commas; all by default")
    parser.add_argument("--drivers", default="", help="names, separated by commas; all but optuna-gp by default")
    parser.add_argument("--figures", type=Path, help="folder for figures")
    given = parser.parse_args()
    makers: dict[str, DriverFactory] = {"plain-nsga2": PlainNsga2, **DRIVERS} | (
        {"syne-tune": SyneTune} if INSTALLED else {}
    )
    every = [*(n for n in makers if n not in ("optuna-gp", "auto")), f"surrogate{HINT}"]
    names = given.drivers.split(",") if given.drivers else every
    wanted = given.problems.split(",") if given.problems else []
    if given.quick:
        given.seeds, given.evaluations, names, wanted = 2, 40, ["nsga2", "surrogate", "random"], ["lonas96", "mw1"]
    names = list(dict.fromkeys(["plain-nsga2", *names]))
    figures: dict[str, Any] = {}
    engine: dict[str, list[float]] = {name: [] for name in names}
    for title, make in problems(wanted).items():
        problem, traces = make(), {}
        for name in names:
            maker, hinted = makers[name.removesuffix(HINT)], name.endswith(HINT) or name in NEEDS_SENSITIVITY
            if hinted and problem.sensitivity is None:
                continue
            traces[name] = [run(problem, maker, given.evaluations, seed, hinted) for seed in range(given.seeds)]
            engine[name] += [1000 * t.engine_seconds / given.evaluations for t in traces[name]]
            ends = np.quantile([t.volumes[-1] for t in traces[name]], [0.25, 0.5, 0.75])
            print(f"{title:10} {name:16} hypervolume {ends[1]:.4f} ({ends[0]:.4f} … {ends[2]:.4f})", flush=True)
        for key, by_driver in summary(traces).items():
            figures.setdefault(key, {})[title] = by_driver
        if given.figures:
            draw(traces, title, given.figures)
    figures["seeds"] = given.seeds
    figures["engine_ms_per_evaluation"] = {
        name: round(float(np.mean(times)), 2) for name, times in engine.items() if times
    }
    print_json(figures)


if __name__ == "__main__":
    main()
