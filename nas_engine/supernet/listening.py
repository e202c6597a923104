"""What modules of a model read on calibration texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nas_engine.texts.batches import Batch, readable

Listener = Callable[[tuple[Any, ...], Tensor], None]
"""Is given a module's arguments, and which of the batch's tokens, all rows in one, are no padding, shape (tokens,)."""


@torch.no_grad()
def listen_to(
    model: PreTrainedModel, listeners: Sequence[tuple[nn.Module, Listener]], batches: Iterable[Batch]
) -> None:
    """Run `model` once on each batch while modules are listened to.

    Args:
        model: run without its output head.
        listeners: modules of it, each with who listens to it.
        batches: `input_ids` and `attention_mask` of shape (rows, tokens).
    """
    mask = torch.empty(0)

    def tell(listener: Listener, module: nn.Module, args: tuple[Any, ...]) -> None:
        listener(args, mask)

    handles = [module.register_forward_pre_hook(partial(tell, listener)) for module, listener in listeners]
    try:
        for batch in readable(batches, model):
            mask = batch["attention_mask"].bool().flatten()
            model.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
