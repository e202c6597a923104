"""The main job from a model to a compressed one, as the command line runs it: tune, train, search, heal, save, confirm.

Each stage keeps what it has done in the run folder, so that the same job started again goes on where it stopped.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evaluators import Evaluator, MultipleChoiceAccuracy, ParameterCount, Question, Racing
from evaluators.text.generation import require_generable
from evaluators.whole_file import replacing
from nas_engine.jobs.finalists import choose, flips, table
from nas_engine.jobs.hints import calibrated_latency, measured_sensitivity
from nas_engine.jobs.job_settings import PYTORCH, JobSettings
from nas_engine.jobs.preparations import require_answerable, require_driver, require_learnable, writable
from nas_engine.jobs.report import ASKED, NEW_TOKENS, SHOWN, accuracy_of, confirmed, in_words, rounded, write_figures
from nas_engine.loop import search
from nas_engine.progress import say
from nas_engine.results.result import SearchResult
from nas_engine.supernet import Subnetwork, SuperNetwork
from nas_engine.tasks import TaskSplits, task_splits
from nas_engine.texts.calibration import calibration_batches
from nas_engine.training import Healed, Teacher, train
from search_spaces import attention_heads, layer_skip, lora_rank, mlp_width

TARGETS = ("q", "k", "v", "o", "gate", "up", "down")


_FOLDERS = ("lora", "training", "reference", "supernet", "compressed")
_FILES = ("summary.json", "front.csv", "front.png", "healed.png", "evaluations.csv", "finalists.csv", "finalists.json",
          "latency_table.json", "sensitivity.json", "ledger.log", "compressed.gguf")  # fmt: skip


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

    Leaves in the run folder `front.csv`, `front.png`, `evaluations.csv`, `finalists.csv`, `healed.png`, `reference/`
    (plain LoRA, as PEFT's adapter), `compressed/`, with another target than PyTorch `compressed.gguf`, `supernet/`,
    `summary.json`, the search's ledger and checkpoints.

    Raises:
        ValueError: a model, task or setting that cannot be used; the message says which and what to do.
    """
    started = time.perf_counter()
    folder = writable(settings.folder, _FOLDERS, _FILES)
    guiding = settings.validation + settings.selection
    splits = task_splits(settings.task, settings.train, guiding, settings.test, settings.seed)
    validation = MultipleChoiceAccuracy(splits.validation[: settings.validation], racing=Racing())
    selection = MultipleChoiceAccuracy(splits.validation[settings.validation :])
    say(f"Loading {settings.model}", enabled=progress)
    supernet = _untrained(settings)
    held_out = MultipleChoiceAccuracy(splits.test)
    _require_possible(supernet, (validation, selection, held_out), splits, settings)
    say(f"Scoring it untrained on {settings.validation} validation questions", enabled=progress)
    untrained = validation(supernet.largest)
    teacher = _reference(supernet, splits.train, settings, folder, progress)
    say("Scoring the reference, plain LoRA on the whole model", enabled=progress)
    reference = {
        name: accuracy_of(teacher, asked) for name, asked in (("validation", validation), ("selection", selection))
    }
    _train(supernet, splits.train, teacher, settings, folder, progress)
    supernet.save(folder / "supernet")
    hint = measured_sensitivity(supernet, splits.train, settings.hints, folder, progress)
    result = _search(supernet, validation, settings, folder, hint, progress)
    finalists = choose(
        result,
        supernet.largest,
        reference["selection"],
        selection,
        splits.train,
        teacher,
        settings.healing,
        settings.tolerance,
        settings.latency,
        settings.finalists,
        folder,
        progress,
    )
    chosen = finalists[0]
    write_figures(result, finalists, reference, folder)
    chosen.deployed.save_pretrained(folder / "compressed")
    exported = _export(chosen.deployed, splits.test, settings, folder, progress)
    say(f"Measuring reference, largest and chosen on {len(splits.test)} held-out questions", enabled=progress)
    changed, pairs = flips(finalists)
    summary = confirmed(supernet, teacher, chosen, held_out, settings) | {
        **in_words(teacher, chosen, splits.test),
        **exported,
        "finalists": json.loads(table(finalists).round(4).to_json(orient="records")),
        "reordered_by_healing": {"pairs": pairs, "flipped": changed},
        "untrained_validation_accuracy": rounded(untrained),
        "front": int(result.frame["on_front"].sum()),
        "evaluations": len(result),
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(time.process_time(), 1),
        "settings": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(settings).items()
            if name != "folder"
        },
    }
    with replacing(folder / "summary.json") as unfinished:
        unfinished.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return JobResult(result, chosen.row, summary, folder)


def _require_possible(
    supernet: SuperNetwork, asked: Sequence[MultipleChoiceAccuracy], splits: TaskSplits, settings: JobSettings
) -> None:
    """What the last stages need, known before the first begins; see `nas_engine.jobs.preparations`."""
    model, tokenizer = supernet.model, supernet.tokenizer
    require_answerable(model, tokenizer, asked)
    require_generable(model, tokenizer, [question.prompt for question in splits.test[:ASKED]], NEW_TOKENS)
    require_learnable(model, tokenizer, splits.train)
    settings.latency.workload.require_readable(model)
    require_driver(settings.driver, supernet.space, 3, settings.population, settings.seed)
    if not supernet.largest.merges:
        raise ValueError(
            "the model is sparse or quantized: adapters merged into it would fill its zeros or leave its grid. Give "
            "the dense model, or compress it with nas-engine shears or sqft."
        )
    if settings.target != PYTORCH:
        genome = supernet.space.sample(np.random.default_rng(settings.seed), 1)[0]
        subnet = supernet.subnetwork(supernet.space.configuration(genome))
        with tempfile.TemporaryDirectory() as unused:
            _export(subnet, splits.test, settings, Path(unused), progress=False)


def _export(
    deployed: Subnetwork | Healed, questions: Sequence[Question], settings: JobSettings, folder: Path, progress: bool
) -> dict[str, Any]:
    """The model as the file that the target loads, checked there on a few questions; nothing for PyTorch."""
    if settings.target == PYTORCH:
        return {}
    say(f"Writing the chosen model for {settings.target}, and comparing it there", enabled=progress)
    texts = [question.prompt for question in questions[:SHOWN]]
    made = deployed.export("gguf", folder / "compressed.gguf", weights=settings.weights, texts=texts)
    return {"export": {**asdict(made), "file": made.file.name}}


def _untrained(settings: JobSettings) -> SuperNetwork:
    together = settings.layers_per_gene
    space = lora_rank(settings.ranks, TARGETS, layers_per_gene=together)
    space += mlp_width(settings.widths, multiple_of=32, layers_per_gene=together)
    space += attention_heads(settings.heads, together)
    if settings.skip:
        space += layer_skip()
    return SuperNetwork.from_pretrained(settings.model, space, seed=settings.seed, device=settings.device)


def _reference(
    supernet: SuperNetwork, questions: Sequence[Question], settings: JobSettings, folder: Path, progress: bool
) -> Teacher:
    """What a user would otherwise have: plain LoRA on the whole model, trained or given; also kept as PEFT's."""
    if settings.adapter is not None:
        supernet.load_adapter(settings.adapter)
    elif settings.lora is not None:
        train(supernet, questions, settings.lora, checkpoint=folder / "lora", progress=progress)
        supernet.largest.save_adapter(folder / "reference")
    return Teacher.of(supernet)


def _train(
    supernet: SuperNetwork,
    questions: Sequence[Question],
    teacher: Teacher,
    settings: JobSettings,
    folder: Path,
    progress: bool,
) -> None:
    refit = settings.refit and supernet.can_refit
    if settings.training is None:
        say("Ordering heads and channels", enabled=progress)
        supernet.order_by_importance(list(calibration_batches(questions, supernet.tokenizer, 512)), refit)
        return
    train(
        supernet,
        questions,
        settings.training,
        refit=refit,
        teacher=teacher,
        checkpoint=folder / "training",
        progress=progress,
    )


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
        calibrated_latency(supernet, settings, folder, progress),
        ParameterCount(),
    ]
    return search(
        supernet,
        evaluators,
        settings.searching,
        storage=folder,
        progress=progress,
        sensitivity=sensitivity,
    )
