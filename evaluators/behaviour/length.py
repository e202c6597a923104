"""How much longer or shorter a sub-network's texts are than those of the model that it came from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.behaviour.comparison import BaseComparison
from evaluators.protocol import Measurement, Subnetwork
from evaluators.text.generation import Written


class LengthChange(BaseComparison):
    """How many times longer or shorter texts are than the base's, as a geometric mean: 1 where all are as long.

    A text twice as long and one half as long count as 2 each. Lengths are in tokens, the one that ends a text
    included; of texts that did not end, `max_new_tokens`, so give more than the base's own need.

    Args:
        prompts: two or more.
        max_new_tokens: that a text may take.
        chat: put each prompt as a user's turn into the tokenizer's chat template.
        base: a causal language model in evaluation mode. Without one, a search compares with the largest sub-network,
            and a job with its reference.
        tokenizer: its tokenizer.
        name: column name of the score.

    Raises:
        ValueError: as `Prompts`, or one of base and tokenizer alone.
    """

    unit = ""

    def __init__(
        self,
        prompts: Iterable[str],
        max_new_tokens: int = 64,
        chat: bool = False,
        base: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        name: str = "length_change",
    ) -> None:
        super().__init__(prompts, max_new_tokens, chat, base, tokenizer, name)

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Extract `subnet` and let it write."""
        self._require_base()
        return self._mean(self._logs_of(self.prompts.written_by_subnetwork(subnet)))

    def _scores(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[float]:
        return self._logs_of(self.prompts.written_by(model, tokenizer))

    def _logs_of(self, texts: Sequence[Written]) -> list[float]:
        return [abs(math.log(_length(text) / _length(said))) for text, said in zip(texts, self._said, strict=True)]

    def _mean(self, scores: Sequence[float]) -> Measurement:
        logs = super()._mean(scores)
        value = math.exp(logs.value)
        return Measurement(value, value * logs.stderr, logs.n)  # the error by the delta method


def _length(text: Written) -> int:
    return len(text.tokens) + text.ended
