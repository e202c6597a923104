"""What a model scores that has learned nothing of a split: where that follows from the questions alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from evaluators import Labelled, Question
from evaluators.classification.labelled import Learnable
from nas_engine.data.quality import Metric


def chance_of(metric: Metric, examples: Sequence[Learnable]) -> float | None:
    """The best score that needs no look at the examples; None where there is no telling, as of a perplexity.

    Of questions it is that of guessing among the options of each, of an accuracy on labels the share of the commonest
    class, of F1 that of saying the second class always, and 0 of what has to be written or correlates.

    Args:
        metric: that is measured.
        examples: on which.
    """
    labels = [example.label for example in examples if isinstance(example, Labelled)]
    if metric == "accuracy" and labels:
        return max(Counter(labels).values()) / len(labels)
    if metric == "accuracy":
        options = [len(example.choices) for example in examples if isinstance(example, Question)]
        return fmean(1 / count for count in options) if options else None
    if metric == "f1":
        share = labels.count(1) / len(labels)
        return 2 * share / (1 + share)
    return None if metric == "perplexity" else 0.0
