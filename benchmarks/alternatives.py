"""What a user would do instead, at equal training compute and equal measured speed.

Every method gets the multiply-accumulates of `--steps` steps of LoRA on the whole model: forward and backward passes of
all trained tokens, the teacher's and the calibration's forward passes, fits and the sensitivity. Widths, and numbers
of layers, are those at which the prefill of one prompt on the CPU is faster by `--speedups`, timed in turns.

- ``lora``: LoRA on the whole model;
- ``magnitude``, ``wanda``, ``fitted``: MLPs cut to one width before training, channels ordered by the norm of their
  weights, by Wanda's scores, or ordered and fitted by ours; then LoRA on what is left;
- ``layers``: whole layers left out by how little they turn the hidden states (ShortGPT: Men et al., 2024, arXiv
  2403.03853); then LoRA on what is left;
- ``lonas``: one super-network as published, and its sub-networks of uniform width as they come off it;
- ``ours``: LoRA on the whole model with a part of the budget, channels ordered and fitted to what it learned, blocks
  and widths of the least summed sensitivity at the speed, fitted to the tuned model's stream, then healed.

What `lonas` and `ours` train for all sub-networks is charged in full to each; `front_macs` is the price of a front of
six points. Standard errors are of the questions, which all seeds and methods share, and of the seeds: differences
between methods are surer than they say.

Run as ``python -m benchmarks.alternatives [--quick] [--device cuda] [--steps N] [--seeds N] [--tasks T …]
[--methods M …] [--speedups S …] [--test N] [--share S] [--folder RUN] [--timings FILE] [--data FOLDER]
[--seconds S] [--figures FOLDER]``; interrupted, it goes on. With ``--seconds 0`` it takes timings alone; a quick run
counts weights of layers instead of timing them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks._alternatives import BATCH, Load, Task, Timings, load_task, training_macs
from benchmarks._alternatives_methods import METHODS, RANK, TARGETS, BudgetError, Outcome, Work
from benchmarks._common import add_device, arguments, load, print_json
from nas_engine import SuperNetwork
from nas_engine.errors import TaskError
from search_spaces import lora_rank

TASKS = ("family", "arc", "perplexity")
NOT_HERE = {"torch_pruning": "Torch-Pruning 1.6.1 does not finish grouping a Llama of transformers 5.23"}
FRONT = 6  # points
Row = dict[str, Any]
_STYLES = (("#1f4e79", "o", "-"), ("#c8502d", "s", "--"), ("#5a5a5a", "^", ":"), ("#7a9a3a", "D", "-."),
           ("#8a5aa0", "v", (0, (2, 1))), ("#111111", "P", (0, (8, 2))))  # fmt: skip


class Rows:
    """Finished measurements in a file, one a line.

    Args:
        folder: of the run; one that was made with other `settings` is refused.
        settings: all that changes a measurement.

    Raises:
        ValueError: the folder is another run's.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file, about = folder / "rows.jsonl", folder / "settings.json"
        if about.exists() and json.loads(about.read_text()) != settings:
            raise ValueError(f"{folder} was made with {about.read_text().strip()}; use another --folder.")
        about.write_text(json.dumps(settings) + "\n")
        # A line that a kill cut short has no end.
        lines = self._file.read_text().splitlines(keepends=True) if self._file.exists() else []
        self.rows: list[Row] = [json.loads(line) for line in lines if line.endswith("\n")]
        self._file.write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    def has(self, **key: Any) -> bool:
        """Whether a row has all these values."""
        return any(key.items() <= row.items() for row in self.rows)

    def append(self, key: Mapping[str, Any], outcome: Outcome) -> None:
        """Keep a measurement."""
        measured = {"value": outcome.measurement.value, "stderr": outcome.measurement.stderr}
        rest = {name: value for name, value in asdict(outcome).items() if name != "measurement"}
        self.rows.append(dict(key) | measured | rest)
        with self._file.open("a") as file:
            file.write(json.dumps(self.rows[-1]) + "\n")


class Clock:
    """Tells when to stop: before what would not end in time, if it takes as long as the longest of its kind so far."""

    def __init__(self, seconds: float | None) -> None:
        self._started, self._seconds = time.monotonic(), seconds
        self._longest: dict[str, float] = {}

    @property
    def elapsed(self) -> float:
        """In seconds."""
        return time.monotonic() - self._started

    def allows(self, kind: str) -> bool:
        """Whether there is time for one more."""
        expected = self._longest.get(kind, max(self._longest.values(), default=0.0))
        return self._seconds is None or self.elapsed + expected <= self._seconds

    def took(self, kind: str, seconds: float) -> None:
        """Remember how long one took."""
        self._longest[kind] = max(seconds, self._longest.get(kind, 0.0))


def seeds_of(given: argparse.Namespace) -> range:
    """The seeds of this call."""
    return range(given.first_seed, given.first_seed + given.seeds)


def works(name: str, task: Task, given: argparse.Namespace, timings: Timings, folder: Path) -> Iterator[Work]:
    """One a seed."""
    model, tokenizer = load(given.quick)
    step = Load.of(task.train, tokenizer).times(BATCH / len(task.train))
    whole = SuperNetwork.from_pretrained(model, lora_rank((RANK,), TARGETS), tokenizer).largest
    for seed in seeds_of(given):
        yield Work(
            task,
            tokenizer,
            step,
            seed,
            given.steps,
            given.steps * training_macs(whole, step),
            timings.uniform(given.speedups),
            timings.shallower(given.speedups) if "layers" in given.methods else {},
            timings.forecast(),
            lambda blocks: timings.measured([blocks])[0][0],
            given.share,
            given.quick,
            given.device,
            folder / f"{name}-{seed}",
        )


def measure(given: argparse.Namespace, rows: Rows, timings: Timings, folder: Path, clock: Clock) -> dict[str, str]:
    """Fill in the missing rows, a seed after the other; what was left out, and why."""
    skipped = {method: NOT_HERE[method] for method in given.methods if method in NOT_HERE}
    tasks: dict[str, Iterator[Work]] = {}
    for name in given.tasks:
        try:
            tasks[name] = works(name, load_task(name, given.data, given.test), given, timings, folder)
        except TaskError as error:
            skipped[name] = str(error)
    for seed in seeds_of(given):
        for name, of_seeds in tasks.items():
            work = next(of_seeds)
            for method in (m for m in given.methods if m in METHODS):
                for speedup in (1.0,) if method == "lora" else given.speedups:
                    key = {"task": name, "method": method, "speedup": speedup, "seed": seed}
                    if rows.has(**key):
                        continue
                    label = " ".join(map(str, key.values()))
                    if not clock.allows(method):
                        skipped[label] = "no time left"
                        continue
                    started = clock.elapsed
                    try:
                        rows.append(key, METHODS[method](work, speedup))
                    except BudgetError as error:
                        skipped[label] = str(error)
                        continue
                    clock.took(method, clock.elapsed - started)
                    print(f"{json.dumps(rows.rows[-1])} after {clock.elapsed:.0f} s", flush=True)
                work.made.clear()
                if all(rows.has(task=name, method=method, speedup=s, seed=seed) for s in given.speedups):
                    for part in {"lonas": ("lonas",), "ours": ("lora",)}.get(method, ()):
                        shutil.rmtree(work.folder / part, ignore_errors=True)
    return skipped


def summary(rows: Sequence[Row], metrics: Mapping[str, str], timings: Timings) -> list[Row]:
    """One row a task, method and speed-up: the means over seeds.

    Seeds answer the same questions, so that what the choice of questions adds to the error does not shrink with them.
    """
    groups: dict[tuple[str, str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["method"], row["speedup"]), []).append(row)
    speedups = timings.measured(tuple(map(tuple, row["blocks"])) for row in rows)  # all in turns
    measured = {id(row): speedup for row, (speedup, _) in zip(rows, speedups, strict=True)}
    result = []
    for (task, method, speedup), group in groups.items():
        values = [row["value"] for row in group]
        between = statistics.variance(values) if len(values) > 1 else 0.0
        stderr = math.sqrt(statistics.fmean(row["stderr"] ** 2 for row in group) + between / len(values))
        shared = statistics.fmean(row["shared_macs"] for row in group)
        macs = statistics.fmean(row["training_macs"] for row in group)
        result.append(
            {
                "task": task,
                "method": method,
                "speedup": speedup,
                "measured_speedup": round(statistics.fmean(measured[id(row)] for row in group), 3),
                metrics[task]: round(statistics.fmean(values), 4),
                "stderr": round(stderr, 4),
                "seeds": len(group),
                "training_macs": round(macs),
                "front_macs": shared + FRONT * (macs - shared),
            }
        )
    return sorted(result, key=lambda row: (row["task"], list(METHODS).index(row["method"]), row["speedup"]))


def best(rows: Sequence[Row], metrics: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The best method by task and speed-up."""
    chosen: dict[str, dict[str, str]] = {}
    for task, metric in metrics.items():
        of_task = [row for row in rows if row["task"] == task and row["method"] != "lora"]
        best_of = min if metric == "perplexity" else max
        for speedup in sorted({row["speedup"] for row in of_task}):
            at = [row for row in of_task if row["speedup"] == speedup]
            chosen.setdefault(task, {})[f"{speedup:g}"] = best_of(at, key=lambda row: row[metric])["method"]
    return chosen


def front_prices(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """The price of six points by task and method, the mean over speed-ups."""
    prices: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["method"] != "lora":
            prices.setdefault(row["task"], {}).setdefault(row["method"], []).append(row["front_macs"])
    return {task: {m: round(statistics.fmean(found)) for m, found in of.items()} for task, of in prices.items()}


def draw(rows: Sequence[Row], task: str, metric: str, file: Path) -> None:
    """A task's metric over the measured speed-up, a curve a method, at the width of a paper's column."""
    figure = Figure(figsize=(3.4, 2.8), layout="constrained")
    axes = figure.subplots()
    styles = dict(zip([m for m in METHODS if m != "lora"][::-1], cycle(_STYLES), strict=False))  # ours first
    for method in METHODS:
        of = [row for row in rows if row["task"] == task and row["method"] == method]
        if not of:
            continue
        x, y, error = ([row[name] for row in of] for name in ("measured_speedup", metric, "stderr"))
        if method == "lora":
            axes.errorbar(x, y, error, fmt="*", markersize=8, color="black", capsize=1.5, elinewidth=0.6, label=method)
            continue
        colour, marker, dashes = styles[method]
        axes.errorbar(x, y, error, color=colour, marker=marker, linestyle=dashes, markersize=3.5, capsize=1.5,
                      linewidth=2.0 if method == "ours" else 1.1, elinewidth=0.6, label=method)  # fmt: skip
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("speed-up of the prefill (measured)", fontsize=9)
    axes.set_ylabel(f"{metric}, {task}", fontsize=9)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=7, frameon=False,
                handletextpad=0.3, columnspacing=0.8, handlelength=2.6)  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=200)


def parsed() -> argparse.Namespace:
    """The arguments, with their defaults filled in."""
    parser = arguments(__doc__)
    add_device(parser)
    parser.add_argument("--steps", type=int, help="of LoRA on the whole model, which define the budget (180; quick 8)")
    parser.add_argument("--seeds", type=int, help="how many (3; quick 1)")
    parser.add_argument("--first-seed", type=int, default=0, help="of them, to run seeds beside one another")
    parser.add_argument("--tasks", nargs="+", help=f"of {', '.join(TASKS)}, chain_sum (all but the last; quick that)")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *NOT_HERE], default=[*METHODS, *NOT_HERE])
    parser.add_argument("--speedups", nargs="+", type=float, help="(1.25 1.5 2.0; quick 1.5)")
    parser.add_argument("--test", type=int, help="held-out questions (1000; quick 20)")
    parser.add_argument("--share", type=float, default=0.5, help="of the budget of ours, for LoRA on the whole model")
    parser.add_argument("--folder", type=Path, help="for all that is kept; default runs/alternatives, quick none")
    parser.add_argument("--timings", type=Path, help="speed-ups taken before; default timings.json in the folder")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NAS_DATA", "../shared/data")))
    parser.add_argument("--seconds", type=float, help="stop before what would not end in time")
    parser.add_argument("--figures", type=Path, help="a folder for one figure a task")
    given = parser.parse_args()
    given.steps = given.steps or (8 if given.quick else 180)
    given.speedups = given.speedups or ([1.5] if given.quick else [1.25, 1.5, 2.0])
    given.seeds = given.seeds or (1 if given.quick else 3)
    given.test = given.test or (20 if given.quick else 1000)
    given.tasks = given.tasks or (["chain_sum"] if given.quick else list(TASKS))
    given.folder = given.folder or (None if given.quick else Path("runs/alternatives"))
    return given


def main() -> None:
    """Measure, and print one JSON object."""
    given = parsed()
    clock = Clock(given.seconds)
    with nullcontext(given.folder) if given.folder else tempfile.TemporaryDirectory() as run:
        folder = Path(run)
        names = ("quick", "steps", "speedups", "test", "share")
        rows = Rows(folder, {name: getattr(given, name) for name in names})
        timings = Timings(given.timings or folder / "timings.json", given.quick)
        skipped = measure(given, rows, timings, folder, clock)
        metrics = {task: "perplexity" if task == "perplexity" else "accuracy" for task in given.tasks}
        shown = [row for row in rows.rows if row["task"] in metrics and row["method"] in given.methods]
        table = summary(shown, metrics, timings)
    for task, metric in metrics.items() if given.figures else ():
        if any(row["task"] == task for row in table):
            draw(table, task, metric, given.figures / f"{task}.png")
    front_macs = front_prices(table)
    for row in table:
        del row["front_macs"]
    print_json(
        {
            "rows": table,
            "best_by_speedup": best(table, metrics),
            "front_macs": front_macs,
            "skipped": skipped,
            "steps": given.steps,
            "device": given.device,
        }
    )


if __name__ == "__main__":
    main()
