"""Multiple-choice questions in splits, without a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.multiple_choice.questions import Question
from nas_engine.data.admission import everything
from nas_engine.data.cutting import cut
from nas_engine.data.forms import read_question
from nas_engine.data.sources import Row
from nas_engine.data.splitting import Sizes, Taken
from nas_engine.errors import TaskError


@dataclass(frozen=True)
class TaskSplits:
    """A task's questions, disjoint by their text.

    Args:
        train: what the super-network learns from.
        validation: what guides the search.
        test: held out: what the chosen sub-networks are judged by.
    """

    train: tuple[Question, ...]
    validation: tuple[Question, ...]
    test: tuple[Question, ...]


def task_splits(name_or_path: str | Path, train: int, validation: int, test: int, seed: int) -> TaskSplits:
    """The splits of a task of multiple-choice questions, the same for the same arguments.

    `nas_engine.data.load_data` cuts the same splits, of other kinds of data too, for a model that reads them.

    Args:
        name_or_path: as in `nas_engine.data.load_data`.
        train: questions at most; fewer where the task has fewer. Likewise `test`.
        validation: questions cut from the training ones; never from the test set where the task brings one.
        test: as `train`. A training question that the test set has too is left out of training.
        seed: of the questions made, and of which question goes where.

    Raises:
        TaskError: no such task, a missing package or split, a wrong row (it is named), or too few questions.
    """
    if min(train, validation, test) < 1:
        raise TaskError(f"train, validation and test are {train}, {validation} and {test}; give at least 1 of each.")
    taken = cut(str(name_or_path), "multiple_choice", Sizes(train, validation, 0, test), seed, everything).taken
    return TaskSplits(*(_questions(taken[split]) for split in ("train", "validation", "test")))


def questions_from_rows(rows: Iterable[Mapping[str, Any]], where: str) -> list[Question]:
    """Questions out of a dataset's rows, in the columns of ARC and OpenBookQA, or of MMLU.

    The first have `question` or `question_stem`, `choices` with `text` and `label`, and the right label as
    `answerKey`; the second `question`, a list of `choices`, and the right one's index as `answer`.

    Raises:
        TaskError: a row of another form; `where` and its number are named.
    """
    return [read_question(Row(f"{where}, row {i}", row)) for i, row in enumerate(rows)]


def _questions(taken: Taken) -> tuple[Question, ...]:
    return tuple(admitted.example for admitted in taken.admitted if isinstance(admitted.example, Question))
