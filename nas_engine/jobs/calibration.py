"""What a job's heads, channels and widths are fitted to, told: which texts, how many, and in which scripts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from evaluators import Labelled
from evaluators.classification.labelled import Learnable
from nas_engine.data import DataSplits
from nas_engine.data.admission import as_written
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.page.summary import CalibrationTexts
from nas_engine.supernet import SuperNetwork
from nas_engine.texts.labelled import Learned
from nas_engine.texts.scripts import scripts_of
from nas_engine.training.trainer import calibration_tokens

TEXTS = 512  # where no sub-networks take turns


def told_in_words(found: CalibrationTexts) -> str:
    """A line."""
    scripts = ", ".join(f"{100 * share:.3g} % {name}" for name, share in found.scripts.items())
    return (
        f"calibration: the first {found.texts} texts that are learned ({found.kind.replace('_', ' ')}), "
        f"{found.tokens} tokens; letters: {scripts or 'none'}"
    )


def calibration_of(
    supernet: SuperNetwork, data: DataSplits, learned: Sequence[Learned], settings: JobSettings
) -> CalibrationTexts | None:
    """What is used; None where nothing has an order: neither heads nor widths vary.

    Args:
        supernet: that is calibrated.
        data: of the job.
        learned: its training examples, tokenized.
        settings: of the job.
    """
    if not supernet.units:
        return None
    lengths = [len(example.tokens) for example in learned]
    count = min(TEXTS, len(lengths))
    if settings.training is not None and not settings.compresses:
        wanted = calibration_tokens(settings.refit and supernet.can_refit)
        count = next((i for i, tokens in enumerate(accumulate(lengths), 1) if tokens >= wanted), len(lengths))
    texts = [_text(example) for example in data.train[:count]]
    return CalibrationTexts(data.kind, count, sum(lengths[:count]), scripts_of(texts))


def _text(example: Learnable) -> str:
    if isinstance(example, Labelled):
        return f"{example.text} {example.second or ''}"
    return as_written(example)
