"""What of a job's `summary.json` is on its page: the figures that were measured once the search was over."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluators.documents import checked, read_document
from nas_engine.errors import LedgerError
from nas_engine.plots.axes import REFERENCE

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

    score: Score
    latency_ms: float
    parameters: int


@dataclass(frozen=True)
class ChosenModel(Measured):
    """The model that was saved."""

    configuration: dict[str, int | float]
    heal_steps: int


@dataclass(frozen=True)
class FinalistRow:
    """As `nas_engine.jobs.finalists.table` has it."""

    evaluation: int
    speedup: float
    unhealed: float
    unhealed_stderr: float
    score: float
    score_stderr: float
    heal_steps: int
    reduction: float | None = None
    leaves: str = "healed"

    @property
    def deployed_score(self) -> float:
        """Of what leaves: as healed, unless that made it worse."""
        return self.unhealed if self.leaves == "unhealed" else self.score

    @property
    def gain(self) -> float:
        """How many times it has less of what was minimized: its speed-up, unless that was another cost."""
        return self.speedup if self.reduction is None else self.reduction


@dataclass(frozen=True)
class Answer:
    """What the chosen model wrote to a question."""

    question: str
    right: str
    said: str


@dataclass(frozen=True)
class Minimized:
    """What the chosen one has least of, beside the reference's."""

    name: str
    unit: str
    chosen: float
    reference: float


@dataclass(frozen=True)
class CalibrationTexts:
    """The texts by which heads and channels are ordered, and narrow widths fitted.

    Args:
        kind: of the data that they are of.
        texts: how many; the first that are learned, but for those that the model wrote.
        tokens: of these.
        scripts: share of their letters by script.
        generated: how many of them the model wrote by itself.
    """

    kind: str
    texts: int
    tokens: int
    scripts: dict[str, float]
    generated: int = 0


@dataclass(frozen=True)
class SearchSummary:
    """What the main job leaves; scores are of its `quality`, such as accuracy.

    What models answer in their own words is compared by ``chosen``, ``reference`` and McNemar's ``p_value``.
    """

    reference: Measured
    chosen: ChosenModel
    largest: Measured
    speedup: float
    evaluations: int
    seconds: float
    speedup_stderr: float = 0.0
    quality: str = "accuracy"
    reference_name: str = REFERENCE
    finalists: list[FinalistRow] = field(default_factory=list)
    exact_match: dict[str, Score | float] = field(default_factory=dict)
    answers_ended: dict[str, Score | float] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    minimized: Minimized | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    calibration: CalibrationTexts | None = None
    loads_with: str = "AutoModelForCausalLM"

    @property
    def reduced(self) -> str | None:
        """What finalists have less of, in words, where that is not latency."""
        if self.minimized is None or all(finalist.reduction is None for finalist in self.finalists):
            return None
        return self.minimized.name.replace("_", " ")


@dataclass(frozen=True)
class RecipeSummary:
    """What Shears and SQFT leave."""

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
    data = read_document(file, dict[str, Any], LedgerError, refusal)
    if "recipe" in data:
        return checked(data, RecipeSummary, LedgerError, refusal)
    quality = str(data.get("quality", "accuracy"))
    models = {name: _scored(data.get(name), quality) for name in ("reference", "chosen", "largest")}
    finalists = data.get("finalists", [])
    listed = [_scored(row, quality) for row in finalists] if isinstance(finalists, list) else finalists
    return checked(data | models | {"finalists": listed}, SearchSummary, LedgerError, refusal)


def _scored(entry: Any, quality: str) -> Any:
    """`entry` with what it says of `quality` as its score."""
    if not isinstance(entry, dict):
        return entry
    return {name.replace(quality, "score", 1) if name.startswith(quality) else name: v for name, v in entry.items()}
