"""The stages of the whole job between its checks and its finalists: reference, training, search, export.

Each keeps what it has done in the run folder, so that the same job started again goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evaluators import Evaluator, ModelEvaluator, ParameterCount
from evaluators.behaviour.comparison import compared_with
from evaluators.classification.labelled import Learnable
from nas_engine.deploy.targets import target_named
from nas_engine.jobs.calibration import TEXT_COUNT
from nas_engine.jobs.hints import calibrated_latency
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.jobs.report import SHOWN
from nas_engine.jobs.worth import worth
from nas_engine.loop import search
from nas_engine.progress import say
from nas_engine.results.result import SearchResult
from nas_engine.supernet import Subnetwork, SuperNetwork
from nas_engine.texts.calibration import calibration_batches
from nas_engine.training import Healed, Teacher, TextPair, train


def made_reference(
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


def train_supernet(
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


def constraints_of(validation: ModelEvaluator, settings: JobSettings) -> tuple[str, ...]:
    """What a sub-network must keep: to be worth healing, and what the settings say."""
    return worth(validation), *settings.constraints


def searched(
    supernet: SuperNetwork,
    validation: ModelEvaluator,
    teacher: Teacher,
    settings: JobSettings,
    folder: Path,
    sensitivity: Mapping[str, Sequence[float]] | None,
    progress: bool,
) -> SearchResult[Subnetwork]:
    """The search for sub-networks that are worth healing, by quality, latency and parameters; what compares does so
    with the teacher.
    """
    with teacher.taught() as whole:
        more = compared_with(settings.more_evaluators, whole.model, whole.tokenizer)
    evaluators: list[Evaluator] = [
        validation,
        calibrated_latency(supernet, settings, folder, progress),
        ParameterCount(),
        *more,
    ]
    wanted = replace(settings.searching, constraints=constraints_of(validation, settings))
    return search(
        supernet,
        evaluators,
        wanted,
        storage=folder,
        executor=settings.workplace,
        progress=progress,
        sensitivity=sensitivity,
    )


def exported(
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
