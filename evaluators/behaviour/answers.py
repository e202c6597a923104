"""Whether what a model writes ends, repeats itself, and keeps a format."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.behaviour.writing import PromptedEvaluator, Prompts
from evaluators.checks import require_at_least
from evaluators.protocol import Direction, Measurement, Subnetwork
from evaluators.text.generation import Written

JSON = "json"


class _AnswerEvaluator(PromptedEvaluator, ABC):
    """A score of each text that a model writes, on average."""

    direction: Direction = "maximize"
    unit = ""

    def __init__(self, prompts: Iterable[str], max_new_tokens: int, chat: bool, name: str) -> None:
        self.prompts, self.name = Prompts.of(prompts, max_new_tokens, chat), name

    @abstractmethod
    def scores(self, texts: Sequence[Written]) -> list[float]:
        """One for each text."""

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Extract `subnet` and let it write."""
        return self._mean(self.scores(self.prompts.written_by_subnetwork(subnet)))

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Measurement:
        """The score of any Hugging Face causal language model.

        Raises:
            ValueError, MemoryError: as `evaluators.text.generation.greedy`.
        """
        return self._mean(self.scores(self.prompts.written_by(model, tokenizer)))


class Ended(_AnswerEvaluator):
    """Share of texts that the model ends by itself within `max_new_tokens`.

    Args:
        prompts: two or more.
        max_new_tokens: that a text may take.
        chat: put each prompt as a user's turn into the tokenizer's chat template.
        name: column name of the score.

    Raises:
        ValueError: as `Prompts`.
    """

    def __init__(
        self, prompts: Iterable[str], max_new_tokens: int = 64, chat: bool = False, name: str = "ended"
    ) -> None:
        super().__init__(prompts, max_new_tokens, chat, name)

    def scores(self, texts: Sequence[Written]) -> list[float]:
        """1 where a text ended."""
        return [float(text.ended) for text in texts]


class Repetition(_AnswerEvaluator):
    """Share of a text's word n-grams that it had said already (1 - distinct-n: Li et al., 2016, arXiv 1510.03055).

    Args:
        prompts: two or more.
        max_new_tokens: that a text may take.
        words: n; texts that are shorter repeat nothing.
        chat: put each prompt as a user's turn into the tokenizer's chat template.
        name: column name of the score.

    Raises:
        ValueError: as `Prompts`, or `words` below 1.
    """

    direction: Direction = "minimize"

    def __init__(
        self,
        prompts: Iterable[str],
        max_new_tokens: int = 64,
        words: int = 4,
        chat: bool = False,
        name: str = "repetition",
    ) -> None:
        super().__init__(prompts, max_new_tokens, chat, name)
        require_at_least(1, words=words)
        self.words = words

    def settings(self) -> Mapping[str, Any]:
        """The prompts, as a hash and a count, and n."""
        return {**super().settings(), "words": self.words}

    def scores(self, texts: Sequence[Written]) -> list[float]:
        """How much of each text repeats itself, from 0 to 1."""
        return [self._repeated(text.text.split()) for text in texts]

    def _repeated(self, said: list[str]) -> float:
        grams = [tuple(said[i : i + self.words]) for i in range(len(said) - self.words + 1)]
        return 1 - len(set(grams)) / len(grams) if grams else 0.0


class FormatKept(_AnswerEvaluator):
    """Share of texts that keep a format.

    Args:
        prompts: two or more.
        format: ``json``, for texts that are one JSON value, or a regular expression that a whole text matches.
        max_new_tokens: that a text may take.
        chat: put each prompt as a user's turn into the tokenizer's chat template.
        name: column name of the score.

    Raises:
        ValueError: as `Prompts`, or a regular expression that cannot be read.
    """

    def __init__(
        self,
        prompts: Iterable[str],
        format: str = JSON,
        max_new_tokens: int = 64,
        chat: bool = False,
        name: str = "format_kept",
    ) -> None:
        super().__init__(prompts, max_new_tokens, chat, name)
        try:
            self._pattern = None if format == JSON else re.compile(format, re.DOTALL)
        except re.error as error:
            raise ValueError(
                f"format is {format!r}, which is neither json nor a regular expression: {error}."
            ) from None
        self.format = format

    def settings(self) -> Mapping[str, Any]:
        """The prompts, as a hash and a count, and the format."""
        return {**super().settings(), "format": self.format}

    def scores(self, texts: Sequence[Written]) -> list[float]:
        """1 where a text keeps it."""
        return [float(self._kept(text.text.strip())) for text in texts]

    def _kept(self, text: str) -> bool:
        if self._pattern is not None:
            return self._pattern.fullmatch(text) is not None
        try:
            json.loads(text)
        except ValueError:
            return False
        return True
