"""The main job from a model to a compressed one, as the command line runs it: tune, train, search, heal, save, confirm.

Each stage keeps what it has done in the run folder, so that the same job started again goes on where it stopped.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evaluators import Evaluator, Measurement, ModelEvaluator, ParameterCount, sign_of
from evaluators.classification.labelled import Learnable
from evaluators.text.generation import require_generable
from evaluators.whole_file import replacing
from nas_engine.data import DataSplits
from nas_engine.deploy.targets import target_named
from nas_engine.errors import SettingsError
from nas_engine.goal.constraints import parse_constraints
from nas_engine.jobs.beginning import Beginning, begin
from nas_engine.jobs.calibration import GENERATED, TEXT_COUNT, calibration_of, calibration_texts, told_in_words
from nas_engine.jobs.finalists import choose, flips, table
from nas_engine.jobs.hints import calibrated_latency, measured_sensitivity
from nas_engine.jobs.job_estimate import require_base_fits, require_room
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.jobs.preparations import (
    require_answerable,
    require_driver,
    require_learnable,
    require_one_process,
    writable,
)
from nas_engine.jobs.reference_check import checked_reference
from nas_engine.jobs.report import (
    ASKED,
    SHOWN,
    answers_summary,
    confirmed,
    cost_of,
    leave_page,
    loader_of,
    score_of,
    summary_entry,
    write_figures,
)
from nas_engine.jobs.versions import BASE, VERSIONS, with_versions
from nas_engine.jobs.worth import worth
from nas_engine.libraries import MESSAGES, libraries_in
from nas_engine.loop import search
from nas_engine.named import nearest
from nas_engine.options import command_line
from nas_engine.page.about import About, as_json, tell
from nas_engine.progress import job_line, note, say
from nas_engine.results.result import SearchResult
from nas_engine.settings_file import write_settings
from nas_engine.supernet import Subnetwork, SuperNetwork
from nas_engine.texts.calibration import calibration_batches
from nas_engine.texts.labelled import Learned
from nas_engine.training import Healed, Teacher, TextPair, train

_FOLDERS = ("lora", "training", "reference", "supernet", "compressed", "compressed-vllm", "compressed-openvino",
            "compressed-onnx", BASE, VERSIONS)  # fmt: skip
_FILES = ("summary.json", "front.csv", "front.png", "healed.png", "evaluations.csv", "finalists.csv", "finalists.json",
          "latency_table.json", "sensitivity.json", "ledger.log", "compressed.gguf", "page.json", "report.html",
          "job.yaml", "data.json", "search.json", "base.json", GENERATED, MESSAGES)  # fmt: skip


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

    Leaves in the run folder `report.html`, `front.csv`, `front.png`, `evaluations.csv`, `finalists.csv`, `healed.png`,
    `reference/` (plain LoRA, as PEFT's adapter), `compressed/`, what the target loads (`compressed.gguf` or a folder
    such as `compressed-vllm/`), `supernet/`, `summary.json`, the search's ledger and checkpoints, and in `job.yaml`
    the settings, from which it starts again.

    Raises:
        ValueError: a model, task or setting that cannot be used; the message says which and what to do.
    """
    require_one_process()
    folder = writable(settings.folder, _FOLDERS, _FILES)
    with job_line(enabled=progress), libraries_in(folder / MESSAGES):
        return _run(settings, folder, progress)


def _run(settings: JobSettings, folder: Path, progress: bool) -> JobResult:
    started = time.perf_counter()
    if settings.check_memory:
        require_base_fits(settings)
    say(f"Loading {settings.model}", enabled=progress)
    begun = begin(settings)
    supernet, data = begun.supernet, begun.data
    validation, selection, held_out = (data.quality(part) for part in ("validation", "selection", "test"))
    learned = _require_possible(begun, (validation, selection, held_out), settings)
    if settings.check_memory:
        require_room(settings, supernet, learned)
    data.write(folder)  # which refuses a run that was begun with other data
    write_settings(settings, folder / "job.yaml")
    for line in data.report.lines():
        note(line, enabled=progress)
    own, written = calibration_texts(supernet, data, settings, folder, progress)
    calibration = calibration_of(supernet, data, learned, written, settings)
    if calibration is not None:
        note(told_in_words(calibration), enabled=progress)
    if settings.compresses:
        supernet = with_versions(supernet, begun.space, [*own, *written], settings, folder, progress)
        _require_exportable(supernet, data, settings)
    say(f"Scoring it untrained on {settings.validation} validation examples", enabled=progress)
    untrained = validation(supernet.largest)
    teacher = _reference(supernet, data.train, settings, folder, progress)
    say("Scoring the reference, plain LoRA on the whole model", enabled=progress)
    reference = {
        name: score_of(teacher, asked) for name, asked in (("validation", validation), ("selection", selection))
    }
    warned = checked_reference(validation, untrained, reference["validation"], data, settings)
    about = _about(settings, validation, reference, warned)
    tell(about, folder)
    _train(supernet, data.train, [*own, *written] if written else None, teacher, settings, folder, progress)
    supernet.save(folder / "supernet")
    hint = measured_sensitivity(supernet, data.train, settings.hints, folder, progress)
    result = _search(supernet, validation, settings, folder, hint, progress)
    finalists = choose(
        result,
        supernet.largest,
        reference["selection"],
        selection,
        data.train,
        teacher,
        settings.healing,
        settings.tolerance,
        settings.latency,
        settings.finalists,
        folder,
        progress,
        settings.minimize,
    )
    chosen = finalists[0]
    write_figures(result, finalists, reference, folder, held_out.name, settings.minimize)
    chosen.deployed.save_pretrained(folder / "compressed")
    asked = data.prompts("test", ASKED)
    exported = _export(chosen.deployed, asked, settings, folder, progress)
    say("Measuring reference, largest and chosen on held-out data", enabled=progress)
    changed, pairs = flips(finalists)
    summary = confirmed(supernet, teacher, chosen, held_out, settings) | {
        **answers_summary(teacher, chosen, asked, data),
        **exported,
        "minimized": cost_of(result, chosen.row, settings.minimize),
        "finalists": json.loads(table(finalists, held_out.name).round(4).to_json(orient="records")),
        "reordered_by_healing": {"pairs": pairs, "flipped": changed},
        f"untrained_validation_{validation.name}": summary_entry(untrained),
        "warnings": warned,
        "data": data.report.as_json(),
        "calibration": None if calibration is None else asdict(calibration),
        "loads_with": loader_of(supernet.model),
        "front": int(result.frame["on_front"].sum()),
        "evaluations": len(result),
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(time.process_time(), 1),
        "settings": about.settings,
    }
    with replacing(folder / "summary.json") as unfinished:
        unfinished.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    leave_page(about, folder, progress)
    return JobResult(result, chosen.row, summary, folder)


def _constraints(validation: ModelEvaluator, settings: JobSettings) -> tuple[str, ...]:
    """What a sub-network must keep: to be worth healing, and what the settings say."""
    return worth(validation), *settings.constraints


def _about(
    settings: JobSettings, validation: ModelEvaluator, reference: Mapping[str, Measurement], warned: Sequence[str]
) -> About:
    name, selection = validation.name, reference["selection"]
    return About(
        job="search",
        command=command_line("search", settings),
        settings=as_json({name: value for name, value in asdict(settings).items() if name != "folder"}),
        constraints=list(_constraints(validation, settings)),
        reference={name: reference["validation"].value},
        selection={name: selection.value, f"{name}_stderr": selection.stderr},
        warnings=list(warned),
    )


def _require_possible(begun: Beginning, asked: Sequence[ModelEvaluator], settings: JobSettings) -> Sequence[Learned]:
    """The training examples, tokenized, after a check of what the last stages need, known before the first begins; see
    `nas_engine.jobs.preparations`.
    """
    supernet, data = begun.supernet, begun.data
    model, tokenizer = supernet.model, supernet.tokenizer
    require_answerable(model, tokenizer, asked)
    if prompts := [pair.prompt for pair in data.prompts("test", ASKED)]:
        require_generable(model, tokenizer, prompts, data.answers.tokens)
    learned = require_learnable(model, tokenizer, data.train)
    settings.latency.workload.require_readable(model)
    goal = _objectives(asked[0], settings)
    measured = len([name for name in goal if name in _measured(asked[0], settings)])
    require_driver(
        settings.driver, begun.space, len(goal), settings.population, settings.seed, measured, bool(settings.hints)
    )
    if not supernet.largest.merges:
        raise ValueError(
            "the model is sparse or quantized: adapters merged into it would fill its zeros or leave its grid. Give "
            "the dense model, or compress it with nas-engine shears or sqft."
        )
    _require_exportable(supernet, data, settings)
    return learned


def _require_exportable(supernet: SuperNetwork, data: DataSplits, settings: JobSettings) -> None:
    """Check that what the target loads can be written, of the largest and of one that is drawn."""
    if not target_named(settings.target).format:
        return
    genome = supernet.space.sample(np.random.default_rng(settings.seed), 1)[0]
    drawn = supernet.subnetwork(supernet.space.configuration(genome))
    with tempfile.TemporaryDirectory() as unused:
        shown = data.prompts("test", SHOWN)
        _export(supernet.largest, shown, settings, Path(unused), progress=False, check=False)
        _export(drawn, shown, settings, Path(unused), progress=False)


def _export(
    deployed: Subnetwork | Healed,
    asked: Sequence[TextPair],
    settings: JobSettings,
    folder: Path,
    progress: bool,
    check: bool = True,
) -> dict[str, Any]:
    """The model as what the target loads, checked on a few questions; nothing where that is `compressed/`."""
    target = target_named(settings.target)
    if target.format is None:
        return {}
    say(f"Writing the chosen model for {settings.target}, and comparing it there", enabled=progress)
    texts = [pair.prompt for pair in asked[:SHOWN]]
    made = deployed.export(target.format, folder / target.file, weights=settings.stored, texts=texts, check=check)
    return {"export": {**asdict(made), "file": made.file.name}}


def _reference(
    supernet: SuperNetwork, examples: Sequence[Learnable], settings: JobSettings, folder: Path, progress: bool
) -> Teacher:
    """What a user would otherwise have: plain LoRA on the whole model, trained or given; also kept, as PEFT's adapter,
    or merged where the base is in an order of its own.
    """
    if settings.adapter is not None:
        supernet.load_adapter(settings.adapter)
    elif settings.lora is not None:
        train(supernet, examples, settings.lora, checkpoint=folder / "lora", progress=progress)
        if settings.compresses:  # on a base in another order than the model has
            supernet.largest.save_pretrained(folder / "reference")
        else:
            supernet.largest.save_adapter(folder / "reference")
    return Teacher.of(supernet)


def _train(
    supernet: SuperNetwork,
    examples: Sequence[Learnable],
    mixed: Sequence[Learnable] | None,
    teacher: Teacher,
    settings: JobSettings,
    folder: Path,
    progress: bool,
) -> None:
    """Order heads and channels by the `mixed` texts or, without any, the first examples; and train."""
    texts = None if mixed is None else list(calibration_batches(mixed, supernet.tokenizer, len(mixed)))
    refit = settings.refit and supernet.can_refit
    if settings.training is None:
        if not settings.compresses:  # whose base is in order
            say("Ordering heads and channels", enabled=progress)
            supernet.order_by_importance(
                texts or list(calibration_batches(examples, supernet.tokenizer, TEXT_COUNT)), refit
            )
        return
    train(
        supernet,
        examples,
        settings.training,
        refit=refit,
        teacher=teacher,
        calibration=texts,
        checkpoint=folder / "training",
        progress=progress,
    )


def _search(
    supernet: SuperNetwork,
    validation: ModelEvaluator,
    settings: JobSettings,
    folder: Path,
    sensitivity: Mapping[str, Sequence[float]] | None,
    progress: bool,
) -> SearchResult[Subnetwork]:
    evaluators: list[Evaluator] = [
        validation,
        calibrated_latency(supernet, settings, folder, progress),
        ParameterCount(),
        *settings.more_evaluators,
    ]
    wanted = replace(settings.searching, constraints=_constraints(validation, settings))
    return search(
        supernet,
        evaluators,
        wanted,
        storage=folder,
        executor=settings.workplace,
        progress=progress,
        sensitivity=sensitivity,
    )


def _measured(validation: ModelEvaluator, settings: JobSettings) -> set[str]:
    """The names of what does not follow from sizes."""
    more = {e.name for e in settings.more_evaluators if not e.computed}
    return {validation.name, *more}


def _objectives(validation: ModelEvaluator, settings: JobSettings) -> tuple[str, ...]:
    """The names of what is optimized.

    Raises:
        SettingsError: the settings name what nothing measures, or say two things by one name.
    """
    names = [validation.name, "latency", ParameterCount().name, *(e.name for e in settings.more_evaluators)]
    if twice := {name for name in names if names.count(name) > 1}:
        raise SettingsError(f"two evaluators are named {min(twice)!r}; give one of them another name.", ("evaluators",))
    goal = settings.objectives or tuple(names)
    if unknown := [name for name in goal if name not in names]:
        raise SettingsError(f"nothing measures {unknown[0]!r}; {nearest(unknown[0], names)}", ("objectives",))
    parse_constraints(settings.constraints, names)
    falling = ["latency", ParameterCount().name]
    falling += [e.name for e in settings.more_evaluators if sign_of(e.direction) > 0]
    if settings.minimize not in falling:
        raise SettingsError(
            f"minimize is {settings.minimize!r}; choose one of {', '.join(falling)}, or add an evaluator of that name.",
            ("minimize",),
        )
    if settings.minimize not in goal:
        raise SettingsError(
            f"minimize is {settings.minimize!r}, which is not among the objectives {', '.join(goal)}; add it to them.",
            ("minimize",),
        )
    return goal
