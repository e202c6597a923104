"""What of a job's `summary.json` is on its page: the figures that were measured once the search was over."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluators.documents import read_document
from nas_engine.errors import LedgerError

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Score:
    """A mean over `n` questions."""

    value: float
    stderr: float
    n: int


@dataclass(frozen=True)
class Measured:
    """A model on held-out questions."""

    accuracy: Score
    latency_ms: float
    parameters: int


@dataclass(frozen=True)
class ChosenModel(Measured):
    """The one that was saved."""

    configuration: dict[str, int | float]
    heal_steps: int


@dataclass(frozen=True)
class FinalistRow:
    """As `nas_engine.jobs.finalists.table` has it."""

    evaluation: int
    speedup: float
    unhealed: float
    unhealed_stderr: float
    accuracy: float
    accuracy_stderr: float
    heal_steps: int


@dataclass(frozen=True)
class Answer:
    """What the chosen model wrote to a question."""

    question: str
    right: str
    said: str


@dataclass(frozen=True)
class SearchSummary:
    """Of the main job."""

    reference: Measured
    chosen: ChosenModel
    largest: Measured
    speedup: float
    accuracy_drop: float
    evaluations: int
    seconds: float
    speedup_stderr: float = 0.0
    finalists: list[FinalistRow] = field(default_factory=list)
    exact_match: dict[str, Score] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RecipeSummary:
    """Of Shears and SQFT."""

    recipe: str
    sub_adapter: str
    configuration: dict[str, int | float]
    accuracy: Score
    sparsity: float
    bits: int
    merged: bool
    bytes: int
    seconds: float
    heal_steps: int = 0


Summary = SearchSummary | RecipeSummary


def summary_of(folder: Path) -> Summary | None:
    """What the job in `folder` measured at its end; None where it has not come to it.

    Raises:
        LedgerError: the file is damaged, or is another version's.
    """
    file = folder / SUMMARY
    if not file.is_file():
        return None
    refusal = f"{file} is none that this version writes"
    kind: type[Any] = (
        RecipeSummary if "recipe" in read_document(file, dict[str, Any], LedgerError, refusal) else SearchSummary
    )
    found: Summary = read_document(file, kind, LedgerError, refusal)
    return found
