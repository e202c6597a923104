"""Examples and their batches: what the model reads, and where the loss is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from evaluators.text.encoding import encoded, shared_start

IGNORED = -100  # the label that cross-entropy leaves out


class TextPair(Protocol):
    """Anything with a prompt and its completion, such as `evaluators.Question`."""

    @property
    def prompt(self) -> str:
        """What the model is given."""
        ...

    @property
    def completion(self) -> str:
        """What it should say; the loss is taken here alone."""
        ...


@dataclass(frozen=True)
class Example:
    """A prompt and its completion."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class TokenizedExample:
    """Token ids of prompt and completion together, and how many of them are the prompt's."""

    tokens: tuple[int, ...]
    prompt_length: int


def tokenize(pairs: Sequence[TextPair], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> list[TokenizedExample]:
    """Token ids of every pair, the tokenizer's end-of-text token after each completion, so that models learn to stop.

    Raises:
        ValueError: no pair, a completion without tokens, or a pair longer than `max_tokens` (its position is named).
    """
    if not pairs:
        raise ValueError("the training set is empty; give at least one example.")
    prompts = encoded(tokenizer, [pair.prompt for pair in pairs])
    wholes = encoded(tokenizer, [pair.prompt + pair.completion for pair in pairs])
    end = tokenizer.eos_token_id
    return [_example(*texts, i, end, max_tokens) for i, texts in enumerate(zip(pairs, prompts, wholes, strict=True))]


def batch_of(examples: Sequence[TokenizedExample], pad: int, device: torch.device) -> dict[str, Tensor]:
    """Padded right: `input_ids`, `attention_mask` and `labels`, each of shape (examples, longest)."""
    longest = max(len(example.tokens) for example in examples)
    ids = torch.full((len(examples), longest), pad)
    labels = torch.full((len(examples), longest), IGNORED)
    mask = torch.zeros((len(examples), longest), dtype=torch.long)
    for row, example in enumerate(examples):
        length = len(example.tokens)
        ids[row, :length] = torch.tensor(example.tokens)
        labels[row, example.prompt_length : length] = ids[row, example.prompt_length : length]
        mask[row, :length] = 1
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _example(
    pair: TextPair, prompt: tuple[int, ...], whole: tuple[int, ...], index: int, end: int | None, max_tokens: int
) -> TokenizedExample:
    start = shared_start(prompt, whole)  # a token may span the boundary
    if len(whole) <= start:
        raise ValueError(f"training example {index} has a completion without tokens: {pair.completion!r}.")
    if end is not None and whole[-1] != end:
        whole = (*whole, end)
    if len(whole) > max_tokens:
        raise ValueError(
            f"training example {index} has {len(whole)} tokens, more than the {max_tokens} allowed; shorten it, "
            "or raise max_tokens up to what the model can read."
        )
    return TokenizedExample(whole, start)
