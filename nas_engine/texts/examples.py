"""Examples and their batches: what the model reads, and where the loss is taken."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from evaluators.text.examples import Example, TextPair, TokenizedExample, tokenized

__all__ = ["IGNORED", "Example", "TextPair", "TokenizedExample", "batch_of", "tokenize"]
IGNORED = -100  # the label that cross-entropy leaves out


def tokenize(pairs: Sequence[TextPair], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> list[TokenizedExample]:
    """Token ids of every example to learn from; see `evaluators.text.examples.tokenized`.

    Raises:
        ValueError: no example, one without scored tokens, or one longer than `max_tokens` (its position is named).
    """
    if not pairs:
        raise ValueError("the training set is empty; give at least one example.")
    examples = tokenized(pairs, tokenizer)
    for i, (pair, example) in enumerate(zip(pairs, examples, strict=True)):
        if not example.spans:
            raise ValueError(f"training example {i} has a completion without tokens: {pair.completion!r}.")
        if len(example.tokens) > max_tokens:
            raise ValueError(
                f"training example {i} has {len(example.tokens)} tokens, more than the {max_tokens} allowed; shorten "
                "it, or raise max_tokens up to what the model can read."
            )
    return examples


def batch_of(examples: Sequence[TokenizedExample], pad: int, device: torch.device) -> dict[str, Tensor]:
    """Padded right: `input_ids`, `attention_mask` and `labels`, each of shape (examples, longest)."""
    longest = max(len(example.tokens) for example in examples)
    ids = torch.full((len(examples), longest), pad)
    labels = torch.full((len(examples), longest), IGNORED)
    mask = torch.zeros((len(examples), longest), dtype=torch.long)
    for row, example in enumerate(examples):
        length = len(example.tokens)
        ids[row, :length] = torch.tensor(example.tokens)
        for start, end in example.spans:
            labels[row, start:end] = ids[row, start:end]
        mask[row, :length] = 1
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: tensor.to(device) for name, tensor in batch.items()}
