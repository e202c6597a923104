"""Racing: a sub-network is scored part by part, and dropped once it has no more hope of entering the front.

Its rival is the most accurate sub-network of the front that is at least as good in every other objective: whoever is
less accurate than that one is dominated. Both answer the same questions, so that only those count which one of them
answers rightly and the other wrongly (McNemar, 1947); racing as such is Maron and Moore's (1994).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluators.checks import require_at_least
from evaluators.protocol import Measurement

Outcomes = npt.NDArray[np.bool_]  # whether each question is answered rightly, shape (questions,)


@dataclass(frozen=True)
class Racing:
    """How sub-networks are dropped early.

    Args:
        confidence: of every verdict: a sub-network that would be at least as accurate as its rival on all questions is
            dropped with a probability of at most ``1 - confidence``.
        first: questions of the first part; every further part doubles what was asked before.
        seed: of the order in which questions are asked.

    Raises:
        ValueError: a confidence outside 0 to 1, or fewer than one question in the first part.
    """

    confidence: float = 0.95
    first: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence is {self.confidence}; give a probability between 0 and 1, such as 0.95.")
        require_at_least(1, first=self.first)

    def parts(self, questions: int) -> tuple[tuple[int, ...], ...]:
        """The indices of `questions` in a random order, cut into parts."""
        order = np.random.default_rng(self.seed).permutation(questions).tolist()
        ends, end = [0], self.first
        while end < questions:
            ends.append(end)
            end *= 2
        return tuple(tuple(order[a:b]) for a, b in zip(ends, [*ends[1:], questions], strict=True))


def verdict(seen: Outcomes, rival: Measurement, asked: npt.NDArray[np.int64], looks: int, confidence: float) -> bool:
    """Whether a sub-network can be dropped.

    Were both equally good, a question that the rival alone answers rightly (`lost`) would be as likely as one that it
    alone does (`won`). It is dropped where ``P(lost or more of lost + won)`` is at most ``(1 - confidence) / looks``:
    an exact sign test, corrected for the number of looks (Bonferroni). Questions are drawn without replacement, which
    only makes large differences rarer. It is dropped too where the questions left cannot turn the result.

    Args:
        seen: what it answered rightly of the questions asked, shape (asked,).
        rival: with its `outcomes` on all questions.
        asked: indices of the questions asked, shape (asked,).
        looks: how many verdicts are taken in all.
        confidence: of all of them together.
    """
    theirs = outcomes_of(rival)
    lost, won = _discordant(seen, theirs[asked])
    winnable = int((~np.delete(theirs, asked)).sum())
    if won + winnable < lost:
        return True
    from scipy.stats import binom  # takes a second to import

    return bool(lost > won and binom.sf(lost - 1, lost + won, 0.5) <= (1 - confidence) / looks)


def dropped(seen: Outcomes, rival: Measurement, asked: npt.NDArray[np.int64]) -> Measurement:
    """The accuracy of a sub-network that was dropped: its rival's on all questions, plus their difference so far.

    Closer than the mean of the questions asked, for their difficulty cancels, and never above the rival's.
    """
    lost, won = _discordant(seen, outcomes_of(rival)[asked])
    n = len(asked)
    difference = (won - lost) / n
    variance = (won + lost) / n - difference**2
    value = max(0.0, rival.value + difference)
    return Measurement(value, math.sqrt(rival.stderr**2 + variance / n), n)


def packed_outcomes(outcomes: Outcomes) -> str:
    """Outcomes as hexadecimal text, four questions a digit."""
    return np.packbits(outcomes).tobytes().hex()


def outcomes_of(measurement: Measurement) -> Outcomes:
    """The outcomes that `packed_outcomes` packed into a measurement of `n` questions."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(measurement.outcomes), dtype=np.uint8), count=measurement.n)
    return bits.astype(bool)


def _discordant(ours: Outcomes, theirs: Outcomes) -> tuple[int, int]:
    return int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
