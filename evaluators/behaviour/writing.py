"""What sub-networks write to a few prompts, generated once for all evaluators that look at it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.checks import require_at_least
from evaluators.protocol import EvaluatorDefaults, Measurement, Subnetwork
from evaluators.text.generation import Written, require_generable, written
from search_spaces.fingerprint import fingerprint_of

_WRITTEN: WeakKeyDictionary[Any, dict[Prompts, list[Written]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Prompts:
    """Prompts that a model goes on from, greedily.

    Args:
        texts: two or more, so that errors can be estimated.
        max_new_tokens: tokens after which a text that has not ended is cut off.
        chat: put each as a user's turn into the tokenizer's chat template; False gives them as they are.

    Raises:
        ValueError: fewer than two texts, an empty one, or no new token.
    """

    texts: tuple[str, ...]
    max_new_tokens: int = 64
    chat: bool = False

    @classmethod
    def of(cls, texts: Iterable[str], max_new_tokens: int, chat: bool) -> Prompts:
        """Prompts as the evaluators take them."""
        if isinstance(texts, str):
            raise ValueError("prompts is a single text; give a list of them.")
        return cls(tuple(texts), max_new_tokens, chat)

    def __post_init__(self) -> None:
        if len(self.texts) < 2:
            raise ValueError(f"prompts holds {len(self.texts)}; give two or more, so that errors can be estimated.")
        for i, text in enumerate(self.texts, start=1):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"prompt {i} is {text!r}; give texts that are not empty.")
        require_at_least(1, max_new_tokens=self.max_new_tokens)

    def settings(self) -> Mapping[str, Any]:
        """The prompts, as a hash and a count, and how they are asked."""
        digest = fingerprint_of(self.texts)
        return {
            "prompts": digest,
            "count": len(self.texts),
            "max_new_tokens": self.max_new_tokens,
            "chat": self.chat,
        }

    def asked(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """What the model reads.

        Raises:
            ValueError: the tokenizer has no chat template.
        """
        if not self.chat:
            return list(self.texts)
        if not tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat template; set one, or give chat=False.")
        turns = ([{"role": "user", "content": text}] for text in self.texts)
        return [str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)) for turn in turns]

    def require_readable(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that `model` can go on from every prompt.

        Raises:
            ValueError: it cannot (the prompt is named).
        """
        require_generable(model, tokenizer, self.asked(tokenizer), self.max_new_tokens)

    def written_by(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[Written]:
        """What `model` writes to each prompt.

        Raises:
            ValueError, MemoryError: as `evaluators.text.generation.greedy`.
        """
        return written(model, tokenizer, self.asked(tokenizer), self.max_new_tokens)

    def written_by_subnetwork(self, subnet: Subnetwork) -> list[Written]:
        """What the extracted `subnet` writes, kept as long as `subnet` is."""
        known = _WRITTEN.setdefault(subnet, {})
        if self not in known:
            known[self] = self.written_by(subnet.extract(share_embeddings=True), subnet.tokenizer)
        return known[self]


class PromptedEvaluator(EvaluatorDefaults):
    """An evaluator of what is written to prompts: a score of each, and their mean."""

    prompts: Prompts

    def settings(self) -> Mapping[str, Any]:
        """The prompts, as a hash and a count, and how they are asked."""
        return self.prompts.settings()

    def require_readable(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that `model` can go on from every prompt.

        Raises:
            ValueError: it cannot (the prompt is named).
        """
        self.prompts.require_readable(model, tokenizer)

    def _mean(self, scores: Sequence[float]) -> Measurement:
        each, n = torch.tensor(scores, dtype=torch.double), len(scores)
        return Measurement(each.mean().item(), each.std(correction=1).item() / math.sqrt(n), n)
