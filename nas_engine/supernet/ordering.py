"""The importance of MLP channels, measured once so that every narrower MLP is a prefix of the wider ones.

A channel is a row of gate and up and a column of down. Its importance sums Wanda's score (Sun et al., 2023,
arXiv 2306.11695, section 3) ``|W_ij| · ||X_j||₂`` over those weights, with X the inputs on calibration texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Batch = Mapping[str, Tensor]


def wanda_scores(weight: Tensor, input_norms: Tensor) -> Tensor:
    """``|W_ij| · ||X_j||₂``, shape (outputs, inputs), of a weight of that shape and norms of shape (inputs,)."""
    return weight.abs() * input_norms


def channel_importance(gate: Tensor, up: Tensor, down: Tensor, input_norms: Tensor, channel_norms: Tensor) -> Tensor:
    """The importance of each MLP channel, shape (channels,).

    Args:
        gate: weight of shape (channels, hidden).
        up: weight of shape (channels, hidden).
        down: weight of shape (hidden, channels).
        input_norms: L2 norm over the calibration tokens of each input of the MLP, shape (hidden,).
        channel_norms: the same of each input of `down`, shape (channels,).
    """
    rows = wanda_scores(gate, input_norms).sum(1) + wanda_scores(up, input_norms).sum(1)
    return rows + wanda_scores(down, channel_norms).sum(0)


@torch.no_grad()
def input_norms(
    model: PreTrainedModel, modules: Mapping[str, nn.Module], batches: Iterable[Batch]
) -> dict[str, Tensor]:
    """The L2 norm of every input of `modules` over the tokens of `batches`, padding left out.

    Args:
        model: run once on each batch, without its output head.
        modules: the layers to listen to, by name.
        batches: `input_ids` and `attention_mask` of shape (rows, tokens).

    Returns:
        a vector of shape (inputs,) for each module.
    """
    squares: dict[str, Tensor] = {}
    mask = torch.empty(0)

    def listen(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        total = args[0][mask].float().pow(2).sum(0)  # (inputs,)
        squares[name] = squares[name] + total if name in squares else total

    handles = [module.register_forward_pre_hook(partial(listen, name)) for name, module in modules.items()]
    try:
        for batch in batches:
            mask = batch["attention_mask"].bool()
            model.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total.sqrt() for name, total in squares.items()}
