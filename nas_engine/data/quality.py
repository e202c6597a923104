"""How well a model does on a split: the evaluator for each kind of data and metric."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

from evaluators import CompletionPerplexity, ExactMatch, MultipleChoiceAccuracy, Perplexity, Problem, Question, Racing
from evaluators.text.examples import TextPair
from evaluators.text.written_answers import NUMBER, Take, compiled, extracted
from nas_engine.data.forms import Kind
from nas_engine.errors import TaskError

Metric = Literal["accuracy", "perplexity", "exact_match"]
Quality = MultipleChoiceAccuracy | Perplexity | CompletionPerplexity | ExactMatch
_METRICS: dict[str, tuple[Metric, ...]] = {  # the first is the one for "auto"
    "multiple_choice": ("accuracy", "perplexity"),
    "prompt_completion": ("perplexity", "exact_match"),
    "chat": ("perplexity",),
    "text": ("perplexity",),
}
_MARK = "####"
_MARKED, _WHOLE = r"####\s*([^\n]+)", r"^\s*([^\n]+)"
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
        raise TaskError(f"metric is {metric!r} with data of the kind {kind}; choose one of auto, {', '.join(allowed)}.")
    return found


def new_tokens(scored: Sequence[int]) -> int:
    """How many tokens an answer may take where right ones have so many: a quarter more than the longest."""
    return math.ceil(max(scored) * 1.25 / _STEP) * _STEP


def quality_of(
    kind: Kind,
    metric: Metric,
    examples: Sequence[TextPair],
    max_tokens: int,
    answer_tokens: int,
    stop: Sequence[str],
    races: bool,
) -> Quality:
    """The evaluator of a split.

    Args:
        kind: of the data.
        metric: one that the kind has.
        examples: of the split, two or more.
        max_tokens: of a plain text.
        answer_tokens: that a generated answer may take.
        stop: where a generated answer ends at the latest.
        races: whether sub-networks that fall behind may be dropped, where the evaluator can.

    Raises:
        TaskError: exact match of answers that are neither numbers nor a line.
    """
    if metric == "accuracy":
        questions = [example for example in examples if isinstance(example, Question)]
        return MultipleChoiceAccuracy(questions, racing=Racing() if races else None)
    if metric == "exact_match":
        pattern, take = _pattern(examples)
        return ExactMatch(
            [Problem(example.prompt, _final(example.completion, pattern)) for example in examples],
            pattern,
            take,
            answer_tokens,
            stop,
            template="{question}",
        )
    if kind == "text":
        return Perplexity([example.completion for example in examples], max_tokens)
    return CompletionPerplexity(examples, name="perplexity")


def _pattern(examples: Sequence[TextPair]) -> tuple[str, Take]:
    """What cuts an answer out of what is written: a number, what follows ``####``, or a line."""
    answers = [example.completion for example in examples]
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
