"""How well a model does on a split: the evaluator for each kind of data and metric."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from evaluators import (
    Classification,
    CompletionPerplexity,
    ExactMatch,
    Labelled,
    MultipleChoiceAccuracy,
    Perplexity,
    Problem,
    Question,
    Racing,
    Regression,
)
from evaluators.classification.evaluators import ClassMetric, Correlation
from evaluators.classification.labelled import Learnable
from evaluators.text.written_answers import NUMBER, Take, compiled, extracted
from nas_engine.data.forms import Kind
from nas_engine.errors import TaskError

Metric = Literal["accuracy", "perplexity", "exact_match", "f1", "matthews", "pearson", "spearman"]
Quality = MultipleChoiceAccuracy | Perplexity | CompletionPerplexity | ExactMatch | Classification | Regression
_METRICS: dict[str, tuple[Metric, ...]] = {  # the first is the one for "auto"
    "multiple_choice": ("accuracy", "perplexity"),
    "prompt_completion": ("perplexity", "exact_match"),
    "chat": ("perplexity",),
    "text": ("perplexity",),
    "classification": ("accuracy", "f1", "matthews"),
    "regression": ("pearson", "spearman"),
}
_MARK = "####"
_MARKED, _WHOLE = r"####\s*([^\n]+)", r"^\s*(?:[^\n]*####)?\s*([^\n]+)"
_STEP = 32  # new tokens are a multiple of it


def metric_of(kind: Kind, metric: str) -> Metric:
    """`metric`, or for ``auto`` the usual one of this kind of data.

    Raises:
        TaskError: this kind has no such metric.
    """
    allowed = _METRICS[kind]
    if metric == "auto":
        return allowed[0]
    found = next((name for name in allowed if name == metric), None)
    if found is None:
        raise TaskError(
            f"metric is {metric!r} with data of the kind {kind}; choose one of auto, {', '.join(allowed)}.", ("metric",)
        )
    return found


@dataclass(frozen=True)
class Answers:
    """Answers in a model's own words.

    Args:
        tokens: that one may take.
        stop: where one ends at the latest.
        pattern: cuts out what is compared, where anything is.
        take: which match of it.
    """

    tokens: int
    stop: tuple[str, ...]
    pattern: str = ""
    take: Take = "last"


def answers_of(metric: Metric, right: Sequence[str], scored: Sequence[int], stop: tuple[str, ...]) -> Answers:
    """How models are to answer where these are right, of so many tokens each: in a quarter more than the longest.

    Raises:
        TaskError: exact match of answers that are neither numbers nor a line.
    """
    tokens = math.ceil(max(scored) * 1.25 / _STEP) * _STEP
    return Answers(tokens, stop, *_pattern(right)) if metric == "exact_match" else Answers(tokens, stop)


def quality_of(
    kind: Kind,
    metric: Metric,
    examples: Sequence[Learnable],
    max_tokens: int,
    answers: Answers,
    races: bool,
) -> Quality:
    """The evaluator of a split.

    Args:
        kind: of the data.
        metric: one that the kind has.
        examples: of the split, two or more.
        max_tokens: of a plain text, or of one with a label.
        answers: how they are written and compared.
        races: whether sub-networks that fall behind may be dropped, where the evaluator can.
    """
    labelled = [example for example in examples if isinstance(example, Labelled)]
    if kind == "classification":
        return Classification(labelled, cast("ClassMetric", metric), max_tokens)
    if kind == "regression":
        return Regression(labelled, cast("Correlation", metric), max_tokens)
    pairs = [example for example in examples if not isinstance(example, Labelled)]
    if metric == "accuracy":
        questions = [example for example in pairs if isinstance(example, Question)]
        return MultipleChoiceAccuracy(questions, racing=Racing() if races else None)
    if metric == "exact_match":
        return ExactMatch(
            [Problem(example.prompt, _final(example.completion, answers.pattern)) for example in pairs],
            answers.pattern,
            answers.take,
            answers.tokens,
            answers.stop,
            template="{question}",
        )
    if kind == "text":
        return Perplexity([example.completion for example in pairs], max_tokens)
    return CompletionPerplexity(pairs, name="perplexity")


def _pattern(answers: Sequence[str]) -> tuple[str, Take]:
    """What cuts an answer out of what is written: a number, what follows ``####``, or a line."""
    if all(extracted(answer.rpartition(_MARK)[2], compiled(NUMBER)) is not None for answer in answers):
        return NUMBER, "last"
    if all(_MARK in answer and answer.rpartition(_MARK)[2].strip() for answer in answers):
        return _MARKED, "last"
    long = next((answer for answer in answers if "\n" in answer.strip()), None)
    if long is not None:
        raise TaskError(
            f"exact_match needs answers that end in a number or have one line, not {long.strip()[:60]!r}; put the "
            f"answer after a last {_MARK!r}, or take metric='perplexity'."
        )
    return _WHOLE, "first"


def _final(answer: str, pattern: str) -> str:
    ending = answer.rpartition(_MARK)[2]
    if pattern != NUMBER:
        return ending.strip()
    found = extracted(ending, re.compile(pattern))
    assert found is not None
    return found
