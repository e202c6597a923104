"""Problems with a free answer, as GSM8K has them, and the JSONL files that hold them. Reads text; never tokenizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.text.jsonl import decoded_lines
from search_spaces import NasEngineError


class ProblemFileError(NasEngineError, ValueError):
    """A file of problems cannot be read; the message names the line."""


@dataclass(frozen=True)
class Problem:
    """A question and its answer in full.

    Args:
        question: the question's text.
        answer: the answer, or a solution that ends in ``#### answer``.

    Raises:
        ValueError: one of them is empty, or nothing follows ``####``.
    """

    question: str
    answer: str

    def __post_init__(self) -> None:
        if not self.question.strip() or not self.final_answer:
            raise ValueError(
                f"question is {self.question[:60]!r} and answer {self.answer[:60]!r}; both need text, "
                'and the answer some after its last "####".'
            )

    @property
    def final_answer(self) -> str:
        """What follows the last ``####``, or the whole answer where there is none."""
        return self.answer.rpartition("####")[2].strip()


def load_problems(path: str | Path) -> list[Problem]:
    """The problems of a JSONL file, one ``{"question": str, "answer": str}`` a line, as GSM8K is published.

    Raises:
        ProblemFileError: the file is missing, holds no problem, or a line is not of that form (the line is named).
    """
    return [_problem(data, line, where) for where, line, data in decoded_lines(path, ProblemFileError, "problem")]


def _problem(data: Any, line: str, where: str) -> Problem:
    if not isinstance(data, dict) or not all(isinstance(data.get(key), str) for key in ("question", "answer")):
        raise ProblemFileError(f'{where} must be an object with the texts "question" and "answer", not {line[:80]!r}.')
    try:
        return Problem(data["question"], data["answer"])
    except ValueError as error:
        raise ProblemFileError(f"{where}: {error}") from error
