"""How far a sub-network's words are from those of the model that it came from, on that model's own texts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.behaviour.writing import Prompts
from evaluators.checks import require_at_least
from evaluators.protocol import Direction, EvaluatorDefaults, Measurement, Subnetwork
from evaluators.text.encoding import token_ids

_TOP = 256  # tokens of a distribution that are told apart; the others count as one


class Divergence(EvaluatorDefaults):
    """Mean ``KL(base || model)`` in nats a token over texts that the base itself wrote to the prompts.

    The base's 256 likeliest tokens at a place are told apart, all others count as one: a bound from below, and near the
    whole, that needs no distribution over a vocabulary to be kept. The standard error is over texts.

    Args:
        base: a causal language model in evaluation mode, such as ``supernet.largest.extract()``.
        tokenizer: its tokenizer, which the sub-networks share.
        prompts: two or more.
        max_new_tokens: that the base writes to each.
        chat: put each prompt as a user's turn into the tokenizer's chat template.
        name: column name of the score.

    Raises:
        ValueError: as `Prompts`, or the base writes nothing to a prompt.
    """

    direction: Direction = "minimize"
    unit = "nats"

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Iterable[str],
        max_new_tokens: int = 64,
        chat: bool = False,
        name: str = "divergence",
    ) -> None:
        self.prompts, self.name = Prompts.of(prompts, max_new_tokens, chat), name
        require_at_least(1, max_new_tokens=max_new_tokens)
        said = self.prompts.written_by(base, tokenizer)
        asked = token_ids(tokenizer, self.prompts.asked(tokenizer))
        self._rows = [(tuple(prompt), text.tokens) for prompt, text in zip(asked, said, strict=True)]
        for i, (_, tokens) in enumerate(self._rows, start=1):
            if not tokens:
                raise ValueError(f"the base writes nothing to prompt {i}; leave it out.")
        self._expected = [self._top(base, *row) for row in self._rows]

    def settings(self) -> Mapping[str, Any]:
        """The prompts, and what the base says to them, as hashes."""
        digest = hashlib.sha256(repr(self._rows).encode())
        for ids, logs in self._expected:
            digest.update(ids.numpy().tobytes() + logs.numpy().tobytes())
        return {**self.prompts.settings(), "base": digest.hexdigest()[:16]}

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """How far `subnet` is, as it runs in the super-network."""
        return self.measure(subnet.model, subnet.tokenizer)

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Measurement:
        """How far any model with the base's vocabulary is."""
        each = torch.tensor(
            [self._divergence(model, row, top) for row, top in zip(self._rows, self._expected, strict=True)],
            dtype=torch.double,
        )
        return Measurement(each.mean().item(), each.std(correction=1).item() / math.sqrt(len(each)), len(each))

    def require_readable(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that `model` can read the prompts with what the base wrote.

        Raises:
            ValueError: it cannot (the prompt is named).
        """
        self.prompts.require_readable(model, tokenizer)

    @torch.inference_mode()
    def _divergence(
        self, model: PreTrainedModel, row: tuple[tuple[int, ...], tuple[int, ...]], top: tuple[Tensor, Tensor]
    ) -> float:
        ids, expected = top  # (tokens, 256), and (tokens, 257) with the others' together
        found = _coarse(_logs(model, *row), ids)
        return (expected.exp() * (expected - found)).sum(-1).mean().item()

    @torch.inference_mode()
    def _top(self, base: PreTrainedModel, prompt: tuple[int, ...], tokens: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        logs = _logs(base, prompt, tokens)
        ids = logs.topk(min(_TOP, logs.shape[-1] - 1)).indices
        return ids, _coarse(logs, ids)


def _logs(model: PreTrainedModel, prompt: tuple[int, ...], tokens: tuple[int, ...]) -> Tensor:
    """Log-probabilities at the places of `tokens`, shape (tokens, vocabulary), fp64 on the CPU."""
    row = torch.tensor([[*prompt, *tokens]], device=model.device)
    logits: Tensor = model(input_ids=row[:, :-1], use_cache=False).logits[0, len(prompt) - 1 :]
    return logits.double().log_softmax(-1).cpu()


def _coarse(logs: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of the tokens `ids`, and of all others together, shape (tokens, ids + 1)."""
    told = logs.gather(-1, ids)
    rest = logs.scatter(-1, ids, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat([told, rest.clamp_min(-1e4)], dim=-1)
