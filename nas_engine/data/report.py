"""What was read, what was kept for which split, and what was left out and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

EMPTY = "empty"
TOO_LONG = "too long"
UNWRITABLE = "refused by the chat template"
DUPLICATES = "duplicates"
SHARED = "also in the test set"


@dataclass(frozen=True)
class PartReport:
    """Counts of one of the files that were read, or of all that a task made.

    Args:
        read: rows.
        left_out: rows that were left out before anything was cut, by reason.
    """

    read: int
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitReport:
    """Counts of one split.

    Args:
        kept: examples.
        tokens: of these.
        scored: tokens on which the loss is taken; 0 where labels are learned.
        left_out: examples that were looked at and left out, by reason; more are not looked at once enough are kept.
        labels: examples of each class, by its name.
    """

    kept: int
    tokens: int
    scored: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DataReport:
    """All counts.

    Args:
        parts: by ``train`` and, where one is given, ``test``: what was read.
        splits: by ``train``, ``validation``, ``selection`` and ``test``: what became of it.
    """

    parts: Mapping[str, PartReport]
    splits: Mapping[str, SplitReport]

    @property
    def left_out(self) -> Mapping[str, int]:
        """Everything that was left out, by reason."""
        counts: dict[str, int] = {}
        reports = [part.left_out for part in self.parts.values()] + [split.left_out for split in self.splits.values()]
        for left_out in reports:
            for reason, count in left_out.items():
                counts[reason] = counts.get(reason, 0) + count
        return counts

    def lines(self) -> list[str]:
        """A line a file and a line a split."""
        lines = [f"{name}: {part.read} rows read{_but(part.left_out)}" for name, part in self.parts.items()]
        return lines + [
            f"{name}: {split.kept} examples, {split.tokens} tokens{_learned(split)}{_but(split.left_out)}"
            for name, split in self.splits.items()
        ]

    def as_json(self) -> dict[str, Any]:
        """The counts as JSON data."""
        return asdict(self)


def _learned(split: SplitReport) -> str:
    if split.labels:
        return f": {counts_in_words(dict(sorted(split.labels.items(), key=lambda item: -item[1])))}"
    return f", {split.scored} of them scored" if split.scored else ""


def _but(left_out: Mapping[str, int]) -> str:
    said = counts_in_words(left_out)
    return f"; left out: {said}" if said else ""


def counts_in_words(left_out: Mapping[str, int]) -> str:
    """Counts by reason, such as ``3 too long, 1 empty``."""
    return ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
