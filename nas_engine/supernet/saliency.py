"""In which order experts are kept, and each one's channels: by what they add to the layer's output.

An expert's saliency is the mean, over the tokens that the router sends to it, of the router's weight times the L2 norm
of what the expert gives: REAP's (Lasby et al., 2025, arXiv 2510.13999, section 4). A channel's is the norm of what it
adds over the same tokens, the router's weight included, as `nas_engine.supernet.ordering` has it for a dense MLP.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from nas_engine.supernet.listening import listen_to
from nas_engine.supernet.mixture import Mixture
from nas_engine.texts.batches import Batch


class _Heard:
    """What a mixture's experts gave on the texts so far."""

    def __init__(self, mixture: Mixture) -> None:
        device = mixture.down.device
        self.mixture = mixture
        self.norms = torch.zeros(mixture.full_experts, device=device)  # of outputs times the router's weights, summed
        self.tokens = torch.zeros(mixture.full_experts, device=device)
        self.squares = torch.zeros(mixture.full_experts, mixture.full_width, device=device)  # of weighted channels

    def add(self, args: tuple[Any, ...], mask: Tensor) -> None:
        """Tokens of shape (tokens, hidden), and the experts and the weights, (tokens, per token), to which and at which
        they are sent; padding is not in `mask`.
        """
        hidden, index, weights = (read[mask] for read in args)
        experts = self.mixture.experts
        for expert in index.unique().tolist():
            tokens, place = torch.where(index == expert)
            weight = weights[tokens, place, None].float()
            gate_up = F.linear(hidden[tokens], self.mixture.gate_up[expert])
            channels = experts._apply_gate(gate_up)  # type: ignore[operator]
            given = F.linear(channels, self.mixture.down[expert])
            self.norms[expert] += (weight[:, 0] * given.float().norm(dim=-1)).sum()
            self.tokens[expert] += len(tokens)
            self.squares[expert] += (weight * channels.float()).square().sum(0)

    @property
    def saliency(self) -> Tensor:
        """How much each expert adds, shape (experts,); 0 where no token was sent to it."""
        return self.norms / self.tokens.clamp(min=1)

    @property
    def channels(self) -> Tensor:
        """How much each expert's channels add, shape (experts, channels)."""
        columns: Tensor = self.mixture.down.float().norm(dim=1)
        return columns * self.squares.sqrt()


@torch.no_grad()
def sort_experts(model: PreTrainedModel, mixtures: Sequence[Mixture], batches: Iterable[Batch]) -> None:
    """Put experts and their channels in the order of their saliency on calibration texts, in place.

    Args:
        model: run once on each batch, all of it active.
        mixtures: its layers'.
        batches: `input_ids` and `attention_mask` of shape (rows, tokens).
    """
    if not mixtures:
        return
    heard = [_Heard(mixture) for mixture in mixtures]
    listen_to(model, [(of.mixture.experts, of.add) for of in heard], batches)
    for of in heard:
        by_channel = of.channels.argsort(dim=1, descending=True, stable=True)
        of.mixture.permute(of.saliency.argsort(descending=True, stable=True), by_channel)
