"""What a job's heads, channels and widths are fitted to, told: which texts, how many, and in which scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

from evaluators import Labelled
from evaluators.classification.labelled import Learnable
from nas_engine.data import DataSplits
from nas_engine.data.admission import as_written
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.supernet import SuperNetwork
from nas_engine.texts.labelled import tokenize_for
from nas_engine.texts.scripts import scripts_of
from nas_engine.training.settings import TrainingSettings
from nas_engine.training.trainer import calibration_tokens

TEXTS = 512  # where no sub-networks take turns


@dataclass(frozen=True)
class Calibration:
    """The task's own texts by which heads and channels are ordered, and narrow widths fitted.

    Args:
        kind: of the data that they are of.
        texts: how many; the first that are learned.
        tokens: of these.
        scripts: share of their letters by script.
    """

    kind: str
    texts: int
    tokens: int
    scripts: Mapping[str, float]

    def line(self) -> str:
        """In words."""
        scripts = ", ".join(f"{100 * share:.3g} % {name}" for name, share in self.scripts.items())
        return (
            f"calibration: the first {self.texts} texts that are learned ({self.kind.replace('_', ' ')}), "
            f"{self.tokens} tokens; letters: {scripts or 'none'}"
        )


def calibration_of(supernet: SuperNetwork, data: DataSplits, settings: JobSettings) -> Calibration | None:
    """What is used; None where nothing has an order: neither heads nor widths vary."""
    if not supernet.units:
        return None
    examples = tokenize_for(supernet.model, data.train, supernet.tokenizer, TrainingSettings.max_tokens)
    lengths = [len(example.tokens) for example in examples]
    count = min(TEXTS, len(lengths))
    if settings.training is not None:
        wanted = calibration_tokens(settings.refit and supernet.can_refit)
        count = next((i for i, tokens in enumerate(accumulate(lengths), 1) if tokens >= wanted), len(lengths))
    texts = [_text(example) for example in data.train[:count]]
    return Calibration(data.kind, count, sum(lengths[:count]), scripts_of(texts))


def _text(example: Learnable) -> str:
    if isinstance(example, Labelled):
        return f"{example.text} {example.second or ''}"
    return as_written(example)
