"""Calibration texts: a few examples that show what each layer of a model reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from nas_engine.errors import CompressionError
from nas_engine.texts.batches import Batch
from nas_engine.texts.examples import TextPair, batch_of, tokenize

_CALIBRATION_ROWS = 16


def calibration_batches(
    examples: Sequence[TextPair],
    tokenizer: PreTrainedTokenizerBase,
    count: int = 128,
    device: torch.device | None = None,
    max_tokens: int = 1024,
) -> Iterator[Batch]:
    """The first `count` examples, prompts and completions, as batches of similar lengths.

    Raises:
        CompressionError: there is no example, or `count` is below 1.
    """
    if not examples or count < 1:
        raise CompressionError(
            f"the calibration data is empty ({count} of {len(examples)} examples); give at least one example."
        )
    tokenized = sorted(tokenize(examples[:count], tokenizer, max_tokens), key=lambda example: len(example.tokens))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    for start in range(0, len(tokenized), _CALIBRATION_ROWS):
        yield batch_of(tokenized[start : start + _CALIBRATION_ROWS], pad, device or torch.device("cpu"))
