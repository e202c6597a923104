"""How far a sub-network's words are from those of the model that it came from, on that model's own texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.behaviour.comparison import BaseComparison
from evaluators.text.encoding import token_ids

_TOP = 256  # tokens of a distribution that are told apart; the others count as one
Row = tuple[tuple[int, ...], tuple[int, ...]]  # a prompt's tokens, and those that the base wrote to it


class Divergence(BaseComparison):
    """Mean ``KL(base || model)`` in nats a token over texts that the base itself wrote to the prompts.

    The base's 256 likeliest tokens at a place are told apart, all others count as one: a bound from below, and near the
    whole, that needs no distribution over a vocabulary to be kept. The standard error is over texts.

    Args:
        prompts: two or more.
        max_new_tokens: that the base writes to each.
        chat: put each prompt as a user's turn into the tokenizer's chat template.
        base: a causal language model in evaluation mode, such as ``supernet.largest.extract()``. Without one, a search
            compares with the largest sub-network, and a job with its reference.
        tokenizer: its tokenizer, which the sub-networks share.
        name: column name of the score.

    Raises:
        ValueError: as `Prompts`, one of base and tokenizer alone, or the base writes nothing to a prompt.
    """

    unit = "nats"
    _rows: Sequence[Row] = ()
    _expected: Sequence[tuple[Tensor, Tensor]] = ()

    def __init__(
        self,
        prompts: Iterable[str],
        max_new_tokens: int = 64,
        chat: bool = False,
        base: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        name: str = "divergence",
    ) -> None:
        super().__init__(prompts, max_new_tokens, chat, base, tokenizer, name)

    def _listen(self, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super()._listen(base, tokenizer)
        asked = token_ids(tokenizer, self.prompts.asked(tokenizer))
        self._rows = [(tuple(prompt), text.tokens) for prompt, text in zip(asked, self._said, strict=True)]
        for i, (_, tokens) in enumerate(self._rows, start=1):
            if not tokens:
                raise ValueError(f"the base writes nothing to prompt {i}; leave it out.")
        self._expected = [_top(base, row) for row in self._rows]

    def settings(self) -> Mapping[str, Any]:
        """The prompts, what the base wrote to them, and how sure it was of it, in nats."""
        # Rounded, for another number of threads changes last digits, and is no other base.
        sure = [(logs.exp() * logs).sum(-1).mean().item() for _, logs in self._expected]
        return {**super().settings(), "entropy": [round(-nats, 2) for nats in sure]}

    def _scores(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[float]:
        return [_divergence(model, row, top) for row, top in zip(self._rows, self._expected, strict=True)]


@torch.inference_mode()
def _divergence(model: PreTrainedModel, row: Row, top: tuple[Tensor, Tensor]) -> float:
    ids, expected = top  # (tokens, 256), and (tokens, 257) with the others' together
    found = _coarse(_logs(model, row), ids)
    return (expected.exp() * (expected - found)).sum(-1).mean().item()


@torch.inference_mode()
def _top(base: PreTrainedModel, row: Row) -> tuple[Tensor, Tensor]:
    logs = _logs(base, row)
    ids = logs.topk(min(_TOP, logs.shape[-1] - 1)).indices
    return ids, _coarse(logs, ids)


def _logs(model: PreTrainedModel, row: Row) -> Tensor:
    """Log-probabilities at the places of what the base wrote, shape (tokens, vocabulary), fp64 on the CPU."""
    prompt, tokens = row
    ids = torch.tensor([[*prompt, *tokens]], device=model.device)
    logits: Tensor = model(input_ids=ids[:, :-1], use_cache=False).logits[0, len(prompt) - 1 :]
    return logits.double().log_softmax(-1).cpu()


def _coarse(logs: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of the tokens `ids`, and of all others together, shape (tokens, ids + 1)."""
    told = logs.gather(-1, ids)
    rest = logs.scatter(-1, ids, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat([told, rest.clamp_min(-1e4)], dim=-1)
