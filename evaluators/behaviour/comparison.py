"""What compares a model's words with those of the model that it came from, its base."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any, Self, TypeGuard

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.behaviour.writing import PromptedEvaluator, Prompts
from evaluators.protocol import Direction, Evaluator, Measurement, Subnetwork
from evaluators.text.generation import Written
from search_spaces.fingerprint import fingerprint_of


class BaseComparison(PromptedEvaluator, ABC):
    """A score of each text that a model writes, or reads, beside what its base wrote to the same prompt.

    The base is given, or left to the search, which takes the largest sub-network, and to the job, which takes its
    reference.
    """

    direction: Direction = "minimize"
    unit: str

    def __init__(
        self,
        prompts: Iterable[str],
        max_new_tokens: int,
        chat: bool,
        base: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        name: str,
    ) -> None:
        self.prompts, self.name = Prompts.of(prompts, max_new_tokens, chat), name
        self._said: list[Written] = []
        if (base is None) != (tokenizer is None):
            raise ValueError(f"{'base' if base is None else 'tokenizer'} is missing; give both, or neither.")
        if base is not None and tokenizer is not None:
            self._listen(base, tokenizer)

    @property
    def has_base(self) -> bool:
        """Whether there is something to compare with."""
        return bool(self._said)

    def against(self, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Self:
        """The same, compared with `base`.

        Args:
            base: a causal language model in evaluation mode.
            tokenizer: its tokenizer.

        Raises:
            ValueError: as the class itself.
        """
        other = copy(self)
        other._listen(base, tokenizer)
        return other

    @abstractmethod
    def _scores(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[float]:
        """Of each prompt: how far `model` is from the base."""

    def _listen(self, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._said = self.prompts.written_by(base, tokenizer)

    def settings(self) -> Mapping[str, Any]:
        """The prompts, and what the base wrote to them, as hashes."""
        said = [(text.tokens, text.ended) for text in self._said]
        return {**super().settings(), "base": fingerprint_of(said) if self.has_base else None}

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """How far `subnet` is, as it runs in the super-network."""
        return self.measure(subnet.model, subnet.tokenizer)

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Measurement:
        """How far any causal language model with the base's vocabulary is.

        Raises:
            ValueError: nobody said from what.
        """
        self._require_base()
        return self._mean(self._scores(model, tokenizer))

    def _require_base(self) -> None:
        if not self.has_base:
            raise ValueError(f"{self.name} has no base to compare with; give base and tokenizer, or use against(…).")


def compared_with(
    evaluators: Sequence[Evaluator], base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[Evaluator]:
    """`evaluators`, those that compare and have no base with this one.

    Raises:
        ValueError: the base writes nothing to a prompt that has to be gone on from.
    """
    return [e.against(base, tokenizer) if lacks_base(e) else e for e in evaluators]


def lacks_base(evaluator: Evaluator) -> TypeGuard[BaseComparison]:
    """Whether `evaluator` compares, and nobody said with what."""
    return isinstance(evaluator, BaseComparison) and not evaluator.has_base
