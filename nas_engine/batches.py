"""Calibration texts as a model reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

Batch = Mapping[str, Tensor]
"""`input_ids` and `attention_mask` of shape (rows, tokens)."""


def token_count(batches: Iterable[Batch]) -> int:
    """Tokens of all `batches`, padding left out."""
    return sum(int(batch["attention_mask"].sum()) for batch in batches)


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """`batches` where a model on `device` can read them."""
    for batch in batches:
        yield {name: tensor.to(device) for name, tensor in batch.items()}
