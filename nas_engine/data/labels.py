"""Labels as rows have them: the names of classes, in their order, or numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evaluators import Labelled
from nas_engine.data.sources import Row, Source
from nas_engine.errors import TaskError

LabelKind = Literal["classification", "regression"]
LABEL_COLUMNS = ("label", "labels")
TEXT_COLUMNS = (  # those of GLUE's tasks among them
    *(("text",), ("sentence",)),
    *(("text", "text_pair"), ("sentence1", "sentence2"), ("question1", "question2")),
    *(("question", "sentence"), ("premise", "hypothesis")),
)
_MOST_CLASSES = 1000
_SHOWN = 8  # names in a sentence


@dataclass(frozen=True)
class Labels:
    """What the labels of a data set are.

    Args:
        classes: their names, by the index that a classifier gives them; empty where labels are numbers.
    """

    classes: tuple[str, ...]

    @property
    def kind(self) -> LabelKind:
        """The kind of data that these labels make."""
        return "classification" if self.classes else "regression"

    @classmethod
    def of(cls, source: Source, column: str, kind: str, order: Sequence[str] = ()) -> Labels:
        """The labels of all rows.

        Whole numbers and texts are classes, the former in their order, the latter in the alphabet's; other numbers are
        to be predicted as numbers.

        Args:
            source: rows.
            column: of the labels.
            kind: ``classification``, ``regression``, or ``auto``.
            order: of the same classes, to be taken instead.

        Raises:
            TaskError: a label that is none (its row is named), a single class, or far too many.
        """
        rows = [row for row in (*source.train, *(source.test or ())) if not _missing(row.fields.get(column))]
        values = [_number(row.fields[column]) for row in rows]
        numeric = all(value is not None for value in values)
        whole = numeric and all(float(value).is_integer() for value in values if value is not None)
        if kind == "regression" or (kind == "auto" and numeric and not whole):
            return cls(())
        names = {name_of(row, column) for row in rows}
        if whole and (withheld := next((row for row in rows if int(name_of(row, column)) < 0), None)):
            raise TaskError(
                f"{withheld.where} has the {column} {withheld.fields[column]!r}, which data sets write where they "
                "withhold one; give rows with their labels."
            )
        if len(names) < 2:
            raise TaskError(f"all rows of {source.name} have one {column}, {', '.join(names)!r}; give two or more.")
        if len(names) > _MOST_CLASSES:
            raise TaskError(
                f"{source.name} has {len(names)} different labels, which are hardly classes; give kind=regression for "
                "numbers, or a column of classes."
            )
        ordered = sorted(names, key=int) if whole else sorted(names)
        return cls(tuple(order) if set(order) == names else tuple(ordered))

    def read(self, row: Row, texts: Sequence[str], column: str) -> Labelled | None:
        """The text, or the two, of `row` with their label; None where one is missing.

        Raises:
            TaskError: a text or a label of another type.
        """
        found = [_text(row, name) for name in texts]
        if _missing(row.fields.get(column)) or not all(text.strip() for text in found):
            return None
        second = found[1] if len(found) > 1 else None
        if self.classes:
            return Labelled(found[0], self.classes.index(name_of(row, column)), second)
        value = _number(row.fields[column])
        if value is None or not math.isfinite(value):
            raise TaskError(f"{row.where} has {str(row.fields[column])[:60]!r} as {column}; give a number.")
        return Labelled(found[0], float(value), second)


def name_of(row: Row, column: str) -> str:
    """The name of a row's class; of a whole number, its digits.

    Raises:
        TaskError: the label is a list or an object.
    """
    value = row.fields[column]
    if not isinstance(value, str | bool | int | float):
        raise TaskError(f"{row.where} has {str(value)[:60]!r} as {column}; give one class a row, or kind=text.")
    number = _number(value)
    return str(int(number)) if number is not None and number.is_integer() else str(value).strip()


def classes_in_words(classes: Sequence[str]) -> str:
    """The names of classes, as a sentence lists them."""
    return ", ".join(classes[:_SHOWN]) + (", …" if len(classes) > _SHOWN else "")


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _text(row: Row, column: str) -> str:
    value = row.fields.get(column)
    if value is None or isinstance(value, str):
        return value or ""
    raise TaskError(f"{row.where} has {str(value)[:60]!r} as {column}; give a text.")
