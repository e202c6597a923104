"""The main job from a model to a compressed one, as the command line runs it: train, search, choose, save, confirm.

Each stage keeps what it has done in the run folder, so that the same job started again goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from evaluators import Evaluator, Latency, Measurement, MultipleChoiceAccuracy, ParameterCount, Question, Racing
from evaluators.devices import require_device
from nas_engine.choosing import choose, speedups_over
from nas_engine.front import SearchResult
from nas_engine.progress import say
from nas_engine.recipes import calibration_batches
from nas_engine.search.drivers import DRIVERS, HINTED
from nas_engine.search.errors import LedgerError
from nas_engine.search.loop import search
from nas_engine.supernet import Subnetwork, SuperNetwork
from nas_engine.tasks import task_splits
from nas_engine.training import train
from nas_engine.training.strategies import STRATEGIES, Strategy
from nas_engine.whole_file import replacing
from search_spaces import lora_rank, mlp_width

_HINTS = 8  # training questions, some 300 tokens
TARGETS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class JobSettings:
    """What to compress, and how long to work at it; the defaults are the quickstart's.

    Args:
        folder: of the run; everything that the job makes is below it.
        model: Hugging Face id or folder, or ``smollm2``.
        task: ``chain_sum``, a JSONL file or a folder of questions, or ``hf:<dataset>``.
        train: questions to train on; likewise `validation`, which guides the search, `selection`, on which its best few
            are compared again, and `test`, held out.
        steps: of training; likewise `batch_size`, `learning_rate` and `strategy`.
        refit: fit narrower widths to what they leave out, where the model is neither sparse nor quantized.
        driver: of the search; likewise `evaluations` and `population`.
        sensitivity: training questions by which it is measured how much each gene matters, before the search, for the
            drivers ``auto`` and ``surrogate``; 0 does without, None takes 8 with these drivers.
        tolerance: what the chosen sub-network may lose of the largest one's accuracy, as a fraction of 1.
        ranks: adapter ranks to choose from.
        widths: fractions of the MLPs' intermediate sizes to choose from.
        layers_per_gene: consecutive layers that share a rank and a width.
        tokens: prompt length at which prefill is timed, batch 1.
        seed: of everything random.
        device: where all is computed and timed, such as ``cuda``.
    """

    folder: Path = Path("runs/quickstart")
    model: str = "smollm2"
    task: str = "chain_sum"
    train: int = 4000
    validation: int = 400
    selection: int = 960
    test: int = 1200
    steps: int = 180
    batch_size: int = 16
    learning_rate: float = 7e-4
    strategy: Strategy = "uniform"
    refit: bool = True
    driver: str = "surrogate"
    evaluations: int = 30
    population: int = 12
    sensitivity: int | None = None
    tolerance: float = 0.005
    ranks: tuple[int, ...] = (32, 16)
    widths: tuple[float, ...] = (1.0, 0.7, 0.5, 0.3, 0.15)
    layers_per_gene: int = 3
    tokens: int = 128
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        # Checked here because the stages that use them come minutes later.
        if self.driver not in DRIVERS:
            raise ValueError(f"driver is {self.driver!r}; choose one of {', '.join(DRIVERS)}.")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy is {self.strategy!r}; choose one of {', '.join(STRATEGIES)}.")
        if self.evaluations < 1 or self.population < 2:
            raise ValueError(
                f"evaluations and population are {self.evaluations} and {self.population}; give at least 1 and 2."
            )
        given = self.sensitivity or 0
        if given < 0 or (given and self.driver not in HINTED):
            raise ValueError(
                f"sensitivity is {self.sensitivity} with the driver {self.driver!r}; give a number of questions with "
                f"{' or '.join(HINTED)}, or 0."
            )
        require_device(self.device)

    @property
    def hints(self) -> int:
        """How many questions say beforehand which genes matter."""
        return (_HINTS if self.driver in HINTED else 0) if self.sensitivity is None else self.sensitivity


@dataclass(frozen=True)
class JobResult:
    """What the job made.

    Args:
        search: every evaluation.
        chosen: the row of the chosen sub-network in `search.frame`.
        summary: the content of `summary.json`.
        folder: where all of it is.
    """

    search: SearchResult[Subnetwork]
    chosen: pd.Series
    summary: dict[str, Any]
    folder: Path


def run_job(settings: JobSettings, progress: bool = True) -> JobResult:
    """Run the whole job.

    Leaves in the run folder `front.csv`, `front.png`, `evaluations.csv`, `compressed/`, `supernet/`, `summary.json`,
    the search's ledger and the training's checkpoint.

    Raises:
        ValueError: a model, task or setting that cannot be used; the message says which and what to do.
    """
    started = time.perf_counter()
    folder = _writable(settings.folder)
    guiding = settings.validation + settings.selection
    splits = task_splits(settings.task, settings.train, guiding, settings.test, settings.seed)
    validation = MultipleChoiceAccuracy(splits.validation[: settings.validation], racing=Racing())
    selection = MultipleChoiceAccuracy(splits.validation[settings.validation :])
    say(f"Loading {settings.model}", enabled=progress)
    supernet = _untrained(settings)
    held_out = MultipleChoiceAccuracy(splits.test)
    say(f"Scoring it untrained on {settings.validation} validation questions", enabled=progress)
    untrained = validation(supernet.largest)
    train(
        supernet,
        splits.train,
        settings.steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        strategy=settings.strategy,
        refit=settings.refit and supernet.can_refit,
        seed=settings.seed,
        checkpoint=folder / "training",
        progress=progress,
    )
    supernet.save(folder / "supernet")
    hint = _sensitivity(supernet, splits.train, settings.hints, folder, progress)
    result = _search(supernet, validation, settings, folder, hint, progress)
    say(f"Measuring the best few again on {settings.selection} other questions, and in turns", enabled=progress)
    chosen = choose(result, supernet.largest, selection, settings.tolerance, settings.tokens).row
    _write_figures(result, chosen, folder)
    subnet = result.subnetwork(chosen)
    subnet.save_pretrained(folder / "compressed")
    say(f"Measuring the largest and the chosen again on {len(splits.test)} held-out questions", enabled=progress)
    summary = _confirm(supernet, subnet, held_out, settings) | {
        "untrained_validation_accuracy": _rounded(untrained),
        "front": int(result.frame["on_front"].sum()),
        "evaluations": len(result),
        "seconds": round(time.perf_counter() - started, 1),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return JobResult(result, chosen, summary, folder)


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise LedgerError(f"the run folder {folder} cannot be written: {error}. Choose another one.") from error
    return folder


def _untrained(settings: JobSettings) -> SuperNetwork:
    space = lora_rank(settings.ranks, TARGETS, layers_per_gene=settings.layers_per_gene) + mlp_width(
        settings.widths, multiple_of=32, layers_per_gene=settings.layers_per_gene
    )
    return SuperNetwork.from_pretrained(settings.model, space, seed=settings.seed, device=settings.device)


def _sensitivity(
    supernet: SuperNetwork, questions: Sequence[Question], count: int, folder: Path, progress: bool
) -> dict[str, Sequence[float]] | None:
    """What the first `count` questions say of the genes, kept in the run folder for a search that goes on."""
    if not count:
        return None
    file, made_with = folder / "sensitivity.json", [supernet.fingerprint(), count]
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["made_with"] == made_with:
            return dict(kept["genes"])
    found = supernet.sensitivity(calibration_batches(questions, supernet.tokenizer, count), progress)
    with replacing(file) as unfinished:
        unfinished.write_text(json.dumps({"made_with": made_with, "genes": found}) + "\n", encoding="utf-8")
    return dict(found)


def _search(
    supernet: SuperNetwork,
    validation: MultipleChoiceAccuracy,
    settings: JobSettings,
    folder: Path,
    sensitivity: Mapping[str, Sequence[float]] | None,
    progress: bool,
) -> SearchResult[Subnetwork]:
    evaluators: list[Evaluator] = [
        validation,
        # A ratio to the largest, timed in turns with it: the machine's drift, between runs too, cancels.
        Latency(tokens=settings.tokens, repeats=4, warmup=1, device=settings.device, reference=supernet.largest),
        ParameterCount(),
    ]
    return search(
        supernet,
        evaluators,
        settings.driver,
        settings.evaluations,
        settings.population,
        settings.seed,
        storage=folder,
        progress=progress,
        sensitivity=sensitivity,
    )


def _write_figures(result: SearchResult[Subnetwork], chosen: pd.Series, folder: Path) -> None:
    result.to_csv(folder / "front.csv")
    result.frame.to_csv(folder / "evaluations.csv")
    with matplotlib.rc_context({"backend": "agg"}):
        axes = result.plot("latency", "accuracy", chosen=chosen)
        figure = axes.get_figure(root=True)
        assert figure is not None
        figure.savefig(folder / "front.png", dpi=300)


def _confirm(
    supernet: SuperNetwork, chosen: Subnetwork, held_out: MultipleChoiceAccuracy, settings: JobSettings
) -> dict[str, Any]:
    """Measure both anew: accuracy on questions that the search never saw, latency in turns, so that drift cancels."""
    accuracies = [held_out(supernet.largest), held_out(chosen)]
    times = speedups_over(supernet.largest, [chosen], settings.tokens)
    parameters = [supernet.largest.parameter_count(), chosen.parameter_count()]
    reference, compressed = (
        {
            "accuracy": _rounded(accuracy),
            "latency_ms": round(milliseconds, 3),
            "parameters": count,
        }
        for accuracy, milliseconds, count in zip(accuracies, times.medians, parameters, strict=True)
    )
    return {
        "reference": reference,
        "chosen": compressed | {"configuration": dict(chosen.configuration)},
        "speedup": round(times.speedups[1], 4),
        "speedup_stderr": round(times.speedup_stderrs[1], 4),
        "accuracy_drop": round(accuracies[0].value - accuracies[1].value, 4),
    }


def _rounded(measurement: Measurement) -> dict[str, float]:
    return {"value": round(measurement.value, 4), "stderr": round(measurement.stderr, 4), "n": measurement.n}
