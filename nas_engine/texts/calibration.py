"""Calibration texts: a few examples that show what each layer of a model reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from evaluators import Labelled
from evaluators.classification.labelled import Learnable, encoded_pairs, padded
from nas_engine.errors import CompressionError
from nas_engine.texts.batches import Batch
from nas_engine.texts.examples import batch_of, tokenize

CALIBRATION_ROWS = 16  # of a batch
MOST_TOKENS = 1024  # of a text, unless said otherwise


def calibration_batches(
    examples: Sequence[Learnable],
    tokenizer: PreTrainedTokenizerBase,
    count: int = 128,
    device: torch.device | None = None,
    max_tokens: int = MOST_TOKENS,
) -> Iterator[Batch]:
    """The first `count` examples, prompts and completions or texts with labels, as batches of similar lengths.

    Raises:
        CompressionError: there is no example, or `count` is below 1.
    """
    if not examples or count < 1:
        raise CompressionError(
            f"the calibration data is empty ({count} of {len(examples)} examples); give at least one example."
        )
    chosen, device = examples[:count], device or torch.device("cpu")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    labelled = [example for example in chosen if isinstance(example, Labelled)]
    rows = sorted(encoded_pairs(labelled, tokenizer, max_tokens), key=lambda row: len(row["input_ids"]))
    for start in range(0, len(rows), CALIBRATION_ROWS):
        yield padded(rows[start : start + CALIBRATION_ROWS], pad, device)
    if labelled:
        return
    pairs = [example for example in chosen if not isinstance(example, Labelled)]
    tokenized = sorted(tokenize(pairs, tokenizer, max_tokens), key=lambda example: len(example.tokens))
    for start in range(0, len(tokenized), CALIBRATION_ROWS):
        yield batch_of(tokenized[start : start + CALIBRATION_ROWS], pad, device)
