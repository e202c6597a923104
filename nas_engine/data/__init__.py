"""A task as a job takes it: multiple choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from evaluators import MultipleChoiceAccuracy, Question, Racing
from nas_engine.errors import TaskError
from nas_engine.tasks import task_splits
from nas_engine.texts.examples import TextPair


@dataclass(frozen=True)
class Report:
    """Counts."""

    train: int
    validation: int
    selection: int
    test: int


@dataclass(frozen=True)
class DataSplits:
    """See load_data."""

    train: tuple[TextPair, ...]
    parts: Mapping[str, Sequence[Question]]
    report: Report
    kind: str = "choices"

    def quality(self, part: str) -> Any:
        """Evaluator of a part."""
        return MultipleChoiceAccuracy(self.parts[part], racing=Racing() if part == "validation" else None)

    def prompts(self, part: str, count: int) -> list[TextPair]:
        """The first of a part."""
        return list(self.parts[part][:count])

    def write(self, folder: Path) -> None:
        """Nothing yet."""


def load_data(
    source: str, tokenizer: PreTrainedTokenizerBase, *, train: int, validation: int, selection: int, test: int,
    seed: int = 0, metric: str = "auto", kind: str = "auto",
) -> DataSplits:  # fmt: skip
    """Multiple choice."""
    if (metric, kind) != ("auto", "auto"):
        raise TaskError("not yet")
    s = task_splits(source, train, validation + selection, test, seed)
    parts = {"validation": s.validation[:validation], "selection": s.validation[validation:], "test": s.test}
    report = Report(len(s.train), *(len(p) for p in parts.values()))
    return DataSplits(s.train, parts, report)
