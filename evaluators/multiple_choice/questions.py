"""Multiple-choice questions and the JSONL files that hold them. Reads text; never tokenizes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.text.jsonl import decoded_lines
from evaluators.whole_file import replacing
from search_spaces import NasEngineError


class QuestionFileError(NasEngineError, ValueError):
    """A file of questions cannot be read; the message names the line."""


@dataclass(frozen=True)
class Question:
    """A question with its options, one of them right.

    Args:
        question: the question's text.
        choices: two options or more.
        answer: index of the right one.

    Raises:
        ValueError: fewer than two choices, an empty one, or an answer that is not among them.
    """

    question: str
    choices: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if len(self.choices) < 2 or not all(self.choices):
            raise ValueError(f"choices are {list(self.choices)}; give two or more, none of them empty.")
        if not 0 <= self.answer < len(self.choices):
            raise ValueError(f"answer is {self.answer}, but the choices go from 0 to {len(self.choices) - 1}.")

    @property
    def prompt(self) -> str:
        """The shared context of all options, as the model reads it."""
        return prompt_of(self.question)

    @property
    def continuations(self) -> tuple[str, ...]:
        """What each option adds to the prompt."""
        return tuple(f" {choice}" for choice in self.choices)

    @property
    def completion(self) -> str:
        """The right option's continuation."""
        return self.continuations[self.answer]


def prompt_of(question: str) -> str:
    """What a model reads of a question before it answers."""
    return f"Question: {question}\nAnswer:"


def load_questions(path: str | Path) -> list[Question]:
    """The questions of a JSONL file, one ``{"question": str, "choices": [str, …], "answer": int}`` a line.

    Raises:
        QuestionFileError: the file is missing, holds no question, or a line is not of that form (the line is named).
    """
    return [_question(data, line, where) for where, line, data in decoded_lines(path, QuestionFileError, "question")]


def save_questions(questions: Iterable[Question], path: str | Path) -> None:
    """Write `questions` in the form that `load_questions` reads."""
    lines = (
        json.dumps({"question": q.question, "choices": list(q.choices), "answer": q.answer}, ensure_ascii=False)
        for q in questions
    )
    with replacing(path) as unfinished:
        unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")


def split(questions: Sequence[Question], held_out: int, seed: int) -> tuple[list[Question], list[Question]]:
    """Shuffle `questions` and cut off the last `held_out`: what remains, and what was cut off.

    A question's text stays on one side even when it occurs several times.

    Raises:
        ValueError: `held_out` would leave nothing on one side.
    """
    by_text: dict[str, list[Question]] = {}
    for question in questions:
        by_text.setdefault(question.question, []).append(question)
    if not 0 < held_out < len(questions) or len(by_text) < 2:
        raise ValueError(f"held_out is {held_out} of {len(questions)} questions; both sides need at least one.")
    groups = list(by_text.values())
    random.Random(seed).shuffle(groups)
    kept: list[Question] = []
    cut: list[Question] = []
    for group in groups:
        (cut if len(cut) < held_out else kept).extend(group)
    return kept, cut


def _question(data: Any, line: str, where: str) -> Question:
    try:
        question, choices, answer = data["question"], data["choices"], data["answer"]
    except (KeyError, TypeError):
        raise QuestionFileError(
            f'{where} must be an object with "question", "choices" and "answer", not {line[:80]!r}.'
        ) from None
    if not (
        isinstance(question, str) and isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)
    ):
        raise QuestionFileError(f'{where}: "question" must be text and "choices" a list of texts.')
    if not isinstance(answer, int) or isinstance(answer, bool):
        raise QuestionFileError(f'{where}: "answer" must be the index of the right choice, not {answer!r}.')
    try:
        return Question(question, tuple(choices), answer)
    except ValueError as error:
        raise QuestionFileError(f"{where}: {error}") from error
