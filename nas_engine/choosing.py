"""From a front to one sub-network, with the luck of the draw taken out.

The row of a search that looks best owes part of that to noise, in its accuracy and in its latency. So the best few are
measured again: accuracy on questions that the search did not use, latency in turns with the largest sub-network's.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from evaluators import LatencyComparison, Measurement, MultipleChoiceAccuracy, compare_latency
from nas_engine.front import SearchResult
from nas_engine.supernet import Subnetwork


@dataclass(frozen=True)
class Shortlisted:
    """A row of a search, measured again.

    Args:
        row: of the search's frame.
        speedup: over the largest sub-network, timed in turns with it.
        accuracy: on the search's questions and the selection's together.
    """

    row: pd.Series
    speedup: float
    accuracy: float


def choose(
    result: SearchResult[Subnetwork],
    largest: Subnetwork,
    selection: MultipleChoiceAccuracy,
    tolerance: float,
    tokens: int,
    count: int = 6,
) -> Shortlisted:
    """The fastest sub-network that keeps the largest one's accuracy less `tolerance`, measured twice.

    The search's accuracy alone would turn down what only fell behind by chance: the `count` fastest of the front
    within a standard error of the bound are timed again, and from the fastest on, each answers the questions of
    `selection` too, until one keeps the bound on all questions together. Where none does, the most accurate is taken.

    Args:
        result: with the objectives `accuracy` and `latency`.
        largest: the reference.
        selection: questions that the search did not use.
        tolerance: accuracy that may be lost, as a fraction of 1.
        tokens: prompt length at which prefill is timed, batch 1.

    Raises:
        SelectionError: no sub-network is accurate enough to be measured again.
    """
    reference = result.reference
    bound = float(reference["accuracy"]) - tolerance - float(reference["accuracy_stderr"])
    rows = result.candidates(f"accuracy >= {bound!r}")
    rows = rows[rows["on_front"]].nsmallest(count, "latency")
    subnets = [result.subnetwork(row) for _, row in rows.iterrows()]
    speedups = speedups_over(largest, subnets, tokens).speedups[1:]
    least = _pooled(reference, selection(largest)) - tolerance
    listed: list[Shortlisted] = []
    timed = zip((row for _, row in rows.iterrows()), subnets, speedups, strict=True)
    for row, subnet, speedup in sorted(timed, key=lambda entry: -entry[2]):
        listed.append(Shortlisted(row, speedup, _pooled(row, selection(subnet))))
        if listed[-1].accuracy >= least:
            return listed[-1]
    return max(listed, key=lambda entry: entry.accuracy)


def speedups_over(largest: Subnetwork, subnets: list[Subnetwork], tokens: int) -> LatencyComparison:
    """Prefill of the extracted models timed in turns, the largest first."""
    models = [subnet.extract(share_embeddings=True) for subnet in [largest, *subnets]]
    return compare_latency(models, batch=1, tokens=tokens)


def _pooled(row: pd.Series, again: Measurement) -> float:
    """The accuracy on the questions of the search and on those of `again`."""
    n = int(row["accuracy_n"])
    return float((n * row["accuracy"] + again.n * again.value) / (n + again.n))
