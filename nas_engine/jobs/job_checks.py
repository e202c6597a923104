"""What the whole job is after, and whether all of its stages can be done: known before the first begins."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evaluators import ModelEvaluator, ParameterCount, sign_of
from evaluators.text.generation import require_generable
from nas_engine.data import DataSplits
from nas_engine.deploy.targets import target_named
from nas_engine.errors import SettingsError
from nas_engine.goal.constraints import parse_constraints
from nas_engine.jobs.beginning import Beginning
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.jobs.job_stages import exported
from nas_engine.jobs.preparations import (
    require_answerable,
    require_computed,
    require_driver,
    require_learnable,
    require_readable_evaluators,
)
from nas_engine.jobs.report import ASKED, SHOWN
from nas_engine.named import nearest
from nas_engine.supernet import SuperNetwork
from nas_engine.texts.labelled import Learned


def require_possible(begun: Beginning, asked: Sequence[ModelEvaluator], settings: JobSettings) -> Sequence[Learned]:
    """The training examples, tokenized, after a check of what the last stages need, known before the first begins; see
    `nas_engine.jobs.preparations`.
    """
    supernet, data = begun.supernet, begun.data
    model, tokenizer = supernet.model, supernet.tokenizer
    require_answerable(model, tokenizer, asked)
    require_readable_evaluators(model, tokenizer, settings.more_evaluators)
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
    if not settings.compresses:  # whose sub-networks have bits and zeros once there are versions
        require_computed(supernet.largest, settings.more_evaluators)
    require_exportable(supernet, data, settings)
    return learned


def require_exportable(supernet: SuperNetwork, data: DataSplits, settings: JobSettings) -> None:
    """Check that what the target loads can be written, of the largest and of one that is drawn."""
    if not target_named(settings.target).format:
        return
    genome = supernet.space.sample(np.random.default_rng(settings.seed), 1)[0]
    drawn = supernet.subnetwork(supernet.space.configuration(genome))
    with tempfile.TemporaryDirectory() as unused:
        shown = data.prompts("test", SHOWN)
        exported(supernet.largest, shown, settings, Path(unused), progress=False, check=False)
        exported(drawn, shown, settings, Path(unused), progress=False)


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
