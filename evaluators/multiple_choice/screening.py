"""Questions answered in half precision first, and again in full where that leaves the answer open.

Half precision moves a log-likelihood by some hundredths, while the best two options of most questions lie whole units
apart. How far it moves them is measured on the closest questions, which are answered in both precisions: all that are
not a safe multiple of that apart are answered again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evaluators.checks import require_one_of

Scores = npt.NDArray[np.float64]  # of options, shape (questions, choices)

_FIRST_SHARE, _FIRST_LEAST = 1 / 16, 4  # of the questions, the closest are asked again whatever they show


@dataclass(frozen=True)
class Screening:
    """How half precision is used.

    Args:
        dtype: of matrix products; norms, residuals and the output head stay in the model's own.
        margin: questions are answered again whose best two options are fewer root mean squared errors apart, as the
            errors of differences between options are measured on those answered twice.

    Raises:
        ValueError: another dtype, or a margin below 1.
    """

    dtype: Literal["bfloat16", "float16"] = "bfloat16"
    margin: float = 6.0

    def __post_init__(self) -> None:
        require_one_of(("bfloat16", "float16"), dtype=self.dtype)
        if not self.margin >= 1:
            raise ValueError(f"margin is {self.margin}; give at least 1, such as 6.")

    @contextmanager
    def half(self, device: torch.device, around: AbstractContextManager[None]) -> Iterator[None]:
        """While open, forward passes on `device` run in half precision, `around` being open too."""
        with torch.autocast(device.type, getattr(torch, self.dtype)), around:
            yield

    def answers(self, screened: Tensor, exact: Callable[[Sequence[int]], Tensor]) -> npt.NDArray[np.int64]:
        """The option that each question is answered by, shape (questions,).

        Args:
            screened: scores of the options in half precision, shape (questions, choices), ``-inf`` where a question
                has fewer.
            exact: from positions of questions to their scores in full precision, shape (positions, choices).
        """
        scores: Scores = screened.double().numpy()
        # A tie goes to the first option; torch's argmax does not promise which one it takes.
        answers: npt.NDArray[np.int64] = scores.argmax(axis=1)
        seconds, best = np.sort(scores, axis=1)[:, -2:].T
        gaps = best - seconds
        closest = gaps.argsort(kind="stable")
        errors: list[npt.NDArray[np.float64]] = []
        asked, wanted = 0, min(len(gaps), max(_FIRST_LEAST, int(_FIRST_SHARE * len(gaps))))
        while asked < wanted:
            again = closest[asked:wanted]
            full: Scores = exact(again.tolist()).double().numpy()
            errors.append(_errors(scores[again], full))
            answers[again] = full.argmax(axis=1)
            bound = self.margin * math.sqrt(np.square(np.concatenate(errors)).mean())
            asked, wanted = wanted, max(wanted, int((gaps <= bound).sum()))
        return answers


def _errors(screened: Scores, exact: Scores) -> npt.NDArray[np.float64]:
    """Errors of the differences between each option and the best one, over all questions, shape (differences,)."""
    counted = np.isfinite(screened[:, : exact.shape[1]])
    errors = np.subtract(screened[:, : exact.shape[1]], exact, where=counted, out=np.zeros(exact.shape))
    best = screened.argmax(axis=1)[:, None]
    np.put_along_axis(counted, best, False, axis=1)
    differences: npt.NDArray[np.float64] = (errors - np.take_along_axis(errors, best, axis=1))[counted]
    return differences
