"""The main job from a model to a compressed one, as the command line runs it: tune, train, search, heal, save, confirm.

Each stage keeps what it has done in the run folder, so that the same job started again goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from evaluators import Measurement, ModelEvaluator
from evaluators.whole_file import replacing
from nas_engine.jobs.beginning import begin
from nas_engine.jobs.calibration import GENERATED, calibration_of, calibration_texts, told_in_words
from nas_engine.jobs.finalists import choose, flips, table
from nas_engine.jobs.hints import measured_sensitivity
from nas_engine.jobs.job_checks import require_exportable, require_possible
from nas_engine.jobs.job_estimate import require_base_fits, require_room
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.jobs.job_stages import constraints_of, exported, made_reference, searched, train_supernet
from nas_engine.jobs.preparations import require_computed, require_one_process, writable
from nas_engine.jobs.reference_check import checked_reference
from nas_engine.jobs.report import (
    ASKED,
    answers_summary,
    confirmed,
    cost_of,
    in_full,
    leave_page,
    loader_of,
    score_of,
    summary_entry,
    write_figures,
)
from nas_engine.jobs.versions import BASE, VERSIONS, with_versions
from nas_engine.libraries import MESSAGES, libraries_in
from nas_engine.options import command_line
from nas_engine.page.about import About, as_json, tell
from nas_engine.progress import job_line, note, say
from nas_engine.results.result import SearchResult
from nas_engine.settings_file import write_settings
from nas_engine.supernet import Subnetwork

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
    supernet, data, space = begun.supernet, begun.data, begun.space
    validation, selection, held_out = (data.quality(part) for part in ("validation", "selection", "test"))
    learned = require_possible(begun, (validation, selection, held_out), settings)
    del begun  # so that nothing holds its super-network once that of bits and zeros takes its place
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
        supernet = with_versions(supernet, space, [*own, *written], settings, folder, progress)
        require_computed(supernet.largest, settings.more_evaluators)
        require_exportable(supernet, data, settings)
    say(f"Scoring it untrained on {settings.validation} validation examples", enabled=progress)
    untrained = validation(supernet.largest)
    teacher = made_reference(supernet, data.train, settings, folder, progress)
    say(f"Scoring the reference, {in_full(settings.reference_name)}", enabled=progress)
    reference = {
        name: score_of(teacher, asked) for name, asked in (("validation", validation), ("selection", selection))
    }
    warned = checked_reference(validation, untrained, reference["validation"], data, settings)
    about = _about(settings, validation, reference, warned)
    tell(about, folder)
    train_supernet(supernet, data.train, [*own, *written] if written else None, teacher, settings, folder, progress)
    supernet.save(folder / "supernet")
    hint = measured_sensitivity(supernet, data.train, settings.hints, folder, progress)
    result = searched(supernet, validation, teacher, settings, folder, hint, progress)
    finalists = choose(
        result,
        supernet.largest,
        reference["selection"],
        selection,
        data.train,
        teacher,
        settings.choosing,
        folder,
        progress,
    )
    chosen = finalists[0]
    if not chosen.better:
        note(
            f"Healing made the chosen one no better on the selection data ({chosen.score.value:.3g} after "
            f"{chosen.steps} steps, {chosen.unhealed.value:.3g} before): it leaves as it was.",
            enabled=progress,
        )
    cost = cost_of(result, chosen.row, settings.minimize)
    healed = table(finalists, held_out.name, cost["name"], cost["reference"])
    write_figures(result, chosen.row, healed, reference, folder, settings, held_out.name)
    chosen.deployed.save_pretrained(folder / "compressed")
    asked = data.prompts("test", ASKED)
    leaves = exported(chosen.deployed, asked, settings, folder, progress)
    say("Measuring reference, largest and chosen on held-out data", enabled=progress)
    changed, pairs = flips(finalists)
    summary = confirmed(supernet, teacher, chosen, held_out, settings) | {
        **answers_summary(teacher, chosen, asked, data),
        **leaves,
        "minimized": cost,
        "finalists": json.loads(healed.round(4).to_json(orient="records")),
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


def _about(
    settings: JobSettings, validation: ModelEvaluator, reference: Mapping[str, Measurement], warned: Sequence[str]
) -> About:
    name, selection = validation.name, reference["selection"]
    return About(
        job="search",
        command=command_line("search", settings),
        settings=as_json({name: value for name, value in asdict(settings).items() if name != "folder"}),
        constraints=list(constraints_of(validation, settings)),
        reference={name: reference["validation"].value},
        reference_name=settings.reference_name,
        selection={name: selection.value, f"{name}_stderr": selection.stderr},
        warnings=list(warned),
    )
