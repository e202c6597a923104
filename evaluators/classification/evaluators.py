"""Scores of sequence classifiers: those of GLUE (Wang et al., 2019, arXiv 1804.07461)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.checks import require_at_least, require_one_of
from evaluators.classification.labelled import (
    Labelled,
    digest,
    encoded_pairs,
    of_two_or_more,
    outputs,
    require_classifier,
    require_short,
)
from evaluators.protocol import Direction, EvaluatorDefaults, Measurement, Subnetwork
from evaluators.text.halving import Halving

ClassMetric = Literal["accuracy", "f1", "matthews"]
Correlation = Literal["pearson", "spearman"]
Numbers = npt.NDArray[np.float64]


class _Labels(EvaluatorDefaults, ABC):
    """What a classifier says of examples, scored as a whole."""

    direction: Direction = "maximize"
    unit = ""

    def __init__(
        self, examples: Iterable[Labelled], metric: str, max_tokens: int, token_budget: int, name: str
    ) -> None:
        self.examples, self.metric, self.name = of_two_or_more(examples), metric, name or metric
        require_at_least(2, max_tokens=max_tokens)
        require_at_least(1, token_budget=token_budget)
        self.max_tokens = max_tokens
        self._budget = Halving(max(token_budget, max_tokens), least=max_tokens)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.examples)} examples, metric={self.metric!r})"

    @abstractmethod
    def score(self, said: Tensor) -> tuple[float, float]:
        """Value and standard error of outputs of shape (examples, classes)."""

    def settings(self) -> Mapping[str, Any]:
        """The examples, as a hash and a count, the metric, and where texts are cut off."""
        return {
            "examples": digest(self.examples),
            "count": len(self.examples),
            "metric": self.metric,
            "max_tokens": self.max_tokens,
        }

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """The score of `subnet` as it runs in the super-network."""
        return self.measure(subnet.model, subnet.tokenizer)

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Measurement:
        """The score of any Hugging Face model for sequence classification.

        Raises:
            ValueError: as `require_readable`.
            MemoryError: not even one text alone fits.
        """
        self.require_readable(model, tokenizer)
        rows = encoded_pairs(self.examples, tokenizer, self.max_tokens)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        value, stderr = self.score(outputs(model, rows, pad, self._budget))
        return Measurement(value, stderr, len(rows))

    def require_readable(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that `model` gives such labels to texts of such length.

        Raises:
            ValueError: it is no classifier in evaluation mode, has other classes, or reads less than `max_tokens`.
        """
        require_classifier(model, (example.label for example in self.examples))
        require_short(model, self.max_tokens)


class Classification(_Labels):
    """How well a model tells classes apart.

    The standard error of an accuracy is a proportion's; those of F1 and of Matthews' correlation are jackknifed, which
    follows exactly from the counts of each kind of answer.

    Args:
        examples: texts with the index of their class, two or more.
        metric: ``accuracy``; ``f1`` of class 1 of two; ``matthews``, the correlation of said and right classes.
        max_tokens: a longer text is cut off after so many tokens.
        token_budget: tokens of one batch, padding included; halves where memory runs out.
        name: column name of the score; the metric by default.

    Raises:
        ValueError: fewer than two examples, an empty text, a label that is no class, or another argument out of range.
    """

    def __init__(
        self,
        examples: Iterable[Labelled],
        metric: ClassMetric = "accuracy",
        max_tokens: int = 128,
        token_budget: int = 4096,
        name: str = "",
    ) -> None:
        super().__init__(examples, metric, max_tokens, token_budget, name)
        require_one_of(get_args(ClassMetric), metric=metric)
        for i, example in enumerate(self.examples, start=1):
            most = 1 if metric == "f1" else math.inf
            if not isinstance(example.label, int) or not 0 <= example.label <= most:
                raise ValueError(f"example {i} has the label {example.label!r}; give the index of a class.")

    def score(self, said: Tensor) -> tuple[float, float]:
        """See `Classification`."""
        right = np.array([int(example.label) for example in self.examples])
        return class_score(self.metric, right, said.argmax(-1).numpy())


class Regression(_Labels):
    """How well the numbers that a model gives to texts go with the right ones.

    Standard errors are Fisher's for Pearson's correlation, and Bonett and Wright's (2000) for Spearman's.

    Args:
        examples: texts with their number, four or more.
        metric: ``pearson`` or ``spearman``.
        max_tokens: a longer text is cut off after so many tokens.
        token_budget: tokens of one batch, padding included; halves where memory runs out.
        name: column name of the score; the metric by default.

    Raises:
        ValueError: fewer than four examples, an empty text, or another argument out of range.
    """

    def __init__(
        self,
        examples: Iterable[Labelled],
        metric: Correlation = "pearson",
        max_tokens: int = 128,
        token_budget: int = 4096,
        name: str = "",
    ) -> None:
        super().__init__(examples, metric, max_tokens, token_budget, name)
        require_one_of(get_args(Correlation), metric=metric)
        require_at_least(4, examples=len(self.examples))

    def score(self, said: Tensor) -> tuple[float, float]:
        """See `Regression`."""
        right = np.array([float(example.label) for example in self.examples])
        return correlation(self.metric, right, said[:, 0].numpy())


def class_score(metric: str, right: npt.NDArray[np.int64], said: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Value and standard error of one of `ClassMetric`.

    Args:
        metric: its name.
        right: classes, shape (examples,).
        said: likewise.
    """
    n, classes = len(right), int(max(right.max(), said.max(), 1)) + 1
    if metric == "accuracy":
        hits = (right == said).astype(float)
        return float(hits.mean()), float(hits.std(ddof=1) / math.sqrt(n))
    counts = np.zeros((classes, classes))  # (right, said)
    np.add.at(counts, (right, said), 1)
    of = _f1 if metric == "f1" else _matthews
    without = np.zeros_like(counts)
    for cell in zip(*np.nonzero(counts), strict=True):
        fewer = counts.copy()
        fewer[cell] -= 1
        without[cell] = of(fewer)
    mean = (counts * without).sum() / n
    variance = (n - 1) / n * (counts * (without - mean) ** 2).sum()
    return of(counts), math.sqrt(variance)


def _f1(counts: Numbers) -> float:
    """``2 TP / (2 TP + FP + FN)`` of class 1; 0 where nobody says it and nobody is it."""
    missed = counts[0, 1] + counts[1, 0]
    return float(2 * counts[1, 1] / (2 * counts[1, 1] + missed)) if counts[1, 1] + missed else 0.0


def _matthews(counts: Numbers) -> float:
    """Gorodkin's (2004) correlation of K classes; 0 where one side has a single class."""
    n, right, said = counts.sum(), counts.sum(1), counts.sum(0)
    spread = math.sqrt((n * n - said @ said) * (n * n - right @ right))
    return float((np.trace(counts) * n - right @ said) / spread) if spread else 0.0


def correlation(metric: str, right: Numbers, said: Numbers) -> tuple[float, float]:
    """Value and standard error of one of `Correlation`; 0 where one side is constant."""
    n = len(right)
    if metric == "spearman":
        right, said = _ranks(right), _ranks(said)
    spread = right.std() * said.std()
    r = float(((right - right.mean()) * (said - said.mean())).mean() / spread) if spread else 0.0
    widening = math.sqrt(1 + r * r / 2) if metric == "spearman" else 1.0
    return r, widening * (1 - r * r) / math.sqrt(n - 3)


def _ranks(values: Numbers) -> Numbers:
    """Ranks from 1, equal values sharing their mean rank."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: Numbers = ends - (counts - 1) / 2
    return means[where]
