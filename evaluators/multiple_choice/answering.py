"""What one model answers to multiple-choice questions, part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evaluators.multiple_choice.likelihoods import Around, nothing_around
from evaluators.multiple_choice.questions import Question
from evaluators.multiple_choice.racing import Outcomes
from evaluators.multiple_choice.screening import Screening


class Answering:
    """One model's answers to the questions that it was asked so far.

    Args:
        questions: all that may be asked.
        scores: of the options of the questions at some positions, shape (positions, choices), ``-inf`` where one has
            fewer choices; given what to enter around the forward passes.
        screening: of answers in half precision; None for scores that are exact at once.
        device: where the model runs.

    Attributes:
        asked: the positions of the questions asked.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        scores: Callable[[Sequence[int], Around], Tensor],
        screening: Screening | None,
        device: torch.device,
    ) -> None:
        self._questions, self._score, self._screening, self._device = questions, scores, screening, device
        self._choices = max(len(question.choices) for question in questions)
        self._scores = torch.empty(0, self._choices)
        self._exact: dict[int, Tensor] = {}  # scores in full precision, by position
        self._answers = np.empty(0, dtype=np.int64)
        self.asked: list[int] = []

    def ask(self, part: Sequence[int], around: Around = nothing_around) -> None:
        """Answer the questions at the positions `part`; screened answers are provisional until `settle`."""
        scores = self._padded(self._score(part, self._screened(around)))
        self._scores = torch.cat([self._scores, scores])
        # A tie goes to the first option, as in the harness; torch's argmax does not promise which one it takes.
        self._answers = np.append(self._answers, scores.numpy().argmax(axis=1))
        self.asked.extend(part)

    def settle(self) -> None:
        """Answer again, in full precision, what half precision leaves open."""
        if self._screening is not None and self.asked:
            self._answers = self._screening.answers(self._scores, self._in_full)

    @property
    def right(self) -> Outcomes:
        """Whether each question of `asked` is answered rightly, in that order."""
        expected: npt.NDArray[np.int64] = np.array([self._questions[i].answer for i in self.asked])
        outcomes: Outcomes = self._answers == expected
        return outcomes

    def _in_full(self, numbers: Sequence[int]) -> Tensor:
        """Scores of the questions that were asked at these places; each is computed once."""
        positions = [self.asked[number] for number in numbers]
        missing = [position for position in positions if position not in self._exact]
        if missing:
            self._exact |= zip(missing, self._padded(self._score(missing, nothing_around)), strict=True)
        return torch.stack([self._exact[position] for position in positions])

    def _screened(self, around: Around) -> Around:
        """`around`, in half precision where answers are screened."""
        screening = self._screening
        if screening is None:
            return around
        return lambda batch: screening.half(self._device, around(batch))

    def _padded(self, scores: Tensor) -> Tensor:
        return torch.nn.functional.pad(scores, (0, self._choices - scores.shape[1]), value=-torch.inf)
