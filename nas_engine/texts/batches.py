"""Calibration texts as a model reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from evaluators.text.positions import most_positions, regime, switching_lengths

Batch = Mapping[str, Tensor]
"""`input_ids` and `attention_mask` of shape (rows, tokens)."""


def token_count(batches: Iterable[Batch]) -> int:
    """Tokens of all `batches`, padding left out."""
    return sum(int(batch["attention_mask"].sum()) for batch in batches)


def readable(batches: Iterable[Batch], model: PreTrainedModel) -> Iterator[Batch]:
    """`batches` where `model` can read them, its device, each row as the model would read it alone.

    Raises:
        ValueError: one has more tokens than the model reads.
    """
    most = most_positions(model)
    for batch in batches:
        tokens = batch["input_ids"].shape[1]
        if most is not None and tokens > most:
            raise ValueError(
                f"a calibration text takes {tokens} tokens, but the model reads {most}; shorten it, or leave it out."
            )
        yield from by_regime(model, {name: tensor.to(model.device) for name, tensor in batch.items()})


def by_regime(model: PreTrainedModel, batch: Batch) -> list[Batch]:
    """`batch` in parts of rows that `model` reads in one way, mostly one (`evaluators.text.positions`)."""
    switching = switching_lengths(model)
    if not switching:
        return [batch]
    mask = batch["attention_mask"]
    lengths: list[int] = (mask.bool() * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1).tolist()
    ways = [regime(length, switching) for length in lengths]
    parts: list[Batch] = []
    for way in sorted(set(ways)):
        rows = [i for i, of_row in enumerate(ways) if of_row == way]
        width = max(lengths[i] for i in rows)
        parts.append({name: tensor[rows, :width] for name, tensor in batch.items()})
    return parts
