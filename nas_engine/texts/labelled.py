"""Texts with labels as a classifier learns them, and one way to batch whatever is learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators import Labelled
from evaluators.classification.labelled import Learnable, encoded_pairs, padded, require_classifier
from nas_engine.texts.examples import TokenizedExample, batch_of, tokenize


@dataclass(frozen=True)
class TokenizedLabel:
    """Token ids of a text, or of a pair of them, and its label.

    Args:
        tokens: all of them.
        types: to which text of the pair each belongs; empty where the tokenizer does not say.
        label: the index of a class, or a number.
    """

    tokens: tuple[int, ...]
    types: tuple[int, ...]
    label: int | float


Learned = TokenizedExample | TokenizedLabel


def tokenize_for(
    model: PreTrainedModel,
    train_set: Sequence[Learnable],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
) -> list[TokenizedExample] | list[TokenizedLabel]:
    """What `model` learns from: prompts with completions, or for a classifier texts with labels.

    Raises:
        ValueError: none, one that does not fit (it is named), or of the other kind.
    """
    labelled = [example for example in train_set if isinstance(example, Labelled)]
    if not labelled:
        if model.get_output_embeddings() is None:
            raise ValueError(
                f"{type(model).__name__} predicts no text; give it texts with labels: evaluators.Labelled(text, label)."
            )
    else:
        require_classifier(model, (example.label for example in labelled), training=True)
    return tokenize_learned(train_set, tokenizer, max_tokens)


def tokenize_learned(
    train_set: Sequence[Learnable], tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> list[TokenizedExample] | list[TokenizedLabel]:
    """Prompts with completions, or texts with labels, whatever model reads them.

    Raises:
        ValueError: none, one that does not fit (it is named), or both kinds.
    """
    pairs = [example for example in train_set if not isinstance(example, Labelled)]
    labelled = [example for example in train_set if isinstance(example, Labelled)]
    if not labelled:
        return tokenize(pairs, tokenizer, max_tokens)
    if pairs:
        raise ValueError("the training set has texts with labels and texts with completions; give one kind.")
    rows = encoded_pairs(labelled, tokenizer, max_tokens)
    return [
        TokenizedLabel(tuple(row["input_ids"]), tuple(row.get("token_type_ids", ())), example.label)
        for row, example in zip(rows, labelled, strict=True)
    ]


def collated(examples: Sequence[Learned], pad: int, device: torch.device) -> dict[str, Tensor]:
    """A batch, padded right, with `labels`: of shape (examples, longest) where texts are learned, and of shape
    (examples,) where classes are, numbers in fp32.
    """
    labelled = [example for example in examples if isinstance(example, TokenizedLabel)]
    if not labelled:
        return batch_of([example for example in examples if isinstance(example, TokenizedExample)], pad, device)
    rows = [{"input_ids": list(e.tokens)} | ({"token_type_ids": list(e.types)} if e.types else {}) for e in labelled]
    labels = [example.label for example in labelled]
    numbers = any(isinstance(label, float) for label in labels)
    made = torch.tensor(labels, dtype=torch.float32 if numbers else torch.long, device=device)
    return padded(rows, pad, device) | {"labels": made}
