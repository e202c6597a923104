"""Whether plain LoRA on the whole model, which a job measures everything against, has learned anything."""

from __future__ import annotations

import warnings

from evaluators import Evaluator, Measurement, sign_of
from nas_engine.data import DataSplits
from nas_engine.data.chance import chance_of
from nas_engine.errors import NasEngineWarning, SearchError
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.jobs.report import in_full

_STDERRS = 2.0  # above chance
_ADVICE = (
    "What a search keeps of it is luck. Give more lora_steps or another learning_rate, look at the data, or take a "
    "larger model."
)


def checked_reference(
    quality: Evaluator, untrained: Measurement, reference: Measurement, data: DataSplits, settings: JobSettings
) -> list[str]:
    """What has to be said of the reference, a sentence each; it is warned of too.

    Args:
        quality: that was measured, on validation data.
        untrained: score of the model as it was given.
        reference: score of plain LoRA.
        data: of the job.
        settings: of the job.

    Raises:
        SearchError: there is something, and the job is to stop then.
    """
    said = _said(quality, untrained, reference, data, settings)
    if said is None:
        return []
    if settings.stop_unlearned:
        raise SearchError(f"{said} The job stops here, as stop_unlearned says.")
    warnings.warn(said, NasEngineWarning, stacklevel=2)
    return [said]


def _said(
    quality: Evaluator, untrained: Measurement, reference: Measurement, data: DataSplits, settings: JobSettings
) -> str | None:
    name, trained = quality.name.replace("_", " "), settings.adapter is not None or settings.lora is not None
    who = in_full(settings.reference_name)
    found = f"{reference.value:.3g} ± {reference.stderr:.2g}"
    chance = chance_of(data.metric, data.validation)
    if chance is not None and reference.value <= chance + _STDERRS * reference.stderr:
        least = "without a look at the questions it would be" if chance else "of a model that knows nothing it is"
        return (
            f"{who} has learned nothing that shows: its {name} on {reference.n} validation examples is {found}, and "
            f"{least} {chance:.3g}. {_ADVICE}"
        )
    # Of what is written freely nobody knows what chance gives; training has to have helped.
    if chance is None and trained and sign_of(quality.direction) * (reference.value - untrained.value) >= 0:
        return (
            f"{who} has learned nothing that shows: its {name} on {reference.n} validation examples is {found}, and "
            f"that of the model before training {untrained.value:.3g}. {_ADVICE}"
        )
    return None
