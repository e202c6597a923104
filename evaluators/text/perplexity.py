"""Perplexity of plain texts: how surprised a model is by a token of them. Generates nothing."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.checks import require_at_least
from evaluators.protocol import Direction, Measurement, Subnetwork
from evaluators.text.encoding import encoded, encoding_state
from evaluators.text.halving import Halving
from evaluators.text.head import logits_of
from evaluators.text.positions import most_positions, regime, switching_lengths

_LOGITS_AT_ONCE = 2**24  # elements of the largest block of logits: 64 MB in fp32
Row = tuple[int, ...]


class Perplexity:
    """``exp`` of the mean negative log-likelihood of a token, over all texts, each read from its own beginning.

    Every token but a text's first is scored; a tokenizer that begins with a token of its own has all of the text's
    scored. The standard error is that of a ratio of sums over independent texts, carried through ``exp`` by the delta
    method.

    Args:
        texts: two or more, none of them empty.
        max_tokens: a longer text is cut off after so many tokens.
        token_budget: tokens of one batch, padding included; more memory for larger ones. Does not change scores, and
            halves where memory runs out.
        name: column name of the score.

    Raises:
        ValueError: fewer than two texts, an empty one, or another argument out of range.
    """

    direction: Direction = "minimize"
    unit = ""

    def __init__(
        self, texts: Iterable[str], max_tokens: int = 512, token_budget: int = 2048, name: str = "perplexity"
    ) -> None:
        if isinstance(texts, str):
            raise ValueError("texts is a single text; give a list of them.")
        self.texts = tuple(texts)
        self.max_tokens, self.token_budget, self.name = max_tokens, token_budget, name
        self._budget: Halving | None = None
        if len(self.texts) < 2:
            raise ValueError(f"texts holds {len(self.texts)}; give two or more, so that errors can be estimated.")
        for i, text in enumerate(self.texts, start=1):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"text {i} is {text!r}; give texts that are not empty.")
        require_at_least(2, max_tokens=max_tokens)
        require_at_least(1, token_budget=token_budget)

    def __repr__(self) -> str:
        return f"Perplexity({len(self.texts)} texts, max_tokens={self.max_tokens})"

    def settings(self) -> Mapping[str, Any]:
        """The texts, as a hash and a count, and where they are cut off."""
        digest = hashlib.sha256(json.dumps(self.texts, ensure_ascii=False).encode()).hexdigest()[:16]
        return {"texts": digest, "count": len(self.texts), "max_tokens": self.max_tokens}

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Perplexity of `subnet` as it runs in the super-network."""
        return self.measure(subnet.model, subnet.tokenizer)

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Measurement:
        """Perplexity of any Hugging Face causal language model.

        Raises:
            ValueError: the model is in training mode, has no output head or a rotary embedding of an unknown kind, or a
                text has fewer than two tokens or more than the model can read (it is named).
            MemoryError: not even the longest text alone fits.
        """
        rows = _tokenized(self.texts, tokenizer, self.max_tokens, encoding_state(tokenizer))
        _require_readable(model, rows)
        if self._budget is None:
            # A batch as small as the longest text alone; below that there is nothing left to halve.
            longest = max(map(len, rows))
            self._budget = Halving(max(self.token_budget, longest), least=longest)
        losses = text_losses(model, rows, self._budget)
        tokens = torch.tensor([len(row) - 1 for row in rows], dtype=torch.double)
        mean = losses.sum() / tokens.sum()
        n = len(rows)
        residuals = losses - mean * tokens  # (texts,)
        stderr = (residuals.square().sum() / (n - 1) / n).sqrt() / tokens.mean()
        value = math.exp(mean.item())
        return Measurement(value=value, stderr=value * stderr.item(), n=n)

    def require_readable(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that `model` can read every text.

        Raises:
            ValueError: it cannot (the text is named), is in training mode or has no output head.
        """
        _require_readable(model, _tokenized(self.texts, tokenizer, self.max_tokens, encoding_state(tokenizer)))


@torch.inference_mode()
def text_losses(model: PreTrainedModel, rows: Sequence[Row], budget: Halving) -> Tensor:
    """Summed negative log-likelihood of every row's tokens but the first, shape (rows,), fp64 on the CPU.

    Args:
        model: a causal language model in evaluation mode.
        rows: token ids, at least two a row.
        budget: tokens of one batch with its padding.
    """
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))  # the batch that needs most memory comes first
    losses = torch.empty(len(rows), dtype=torch.double)
    switching = switching_lengths(model)
    ways = [regime(len(row) - 1, switching) for row in rows]
    done = 0
    while done < len(order):

        def next_batch(tokens: int, start: int = done) -> tuple[list[int], Tensor]:
            longest = order[start]
            chosen = order[start : start + max(1, tokens // len(rows[longest]))]
            chosen = [i for i in chosen if ways[i] == ways[longest]]
            return chosen, _batch_losses(model, [rows[i] for i in chosen])

        chosen, batch_losses = budget.run(next_batch)
        losses[chosen] = batch_losses
        done += len(chosen)
    return losses


def _batch_losses(model: PreTrainedModel, rows: Sequence[Row]) -> Tensor:
    lengths = torch.tensor([len(row) - 1 for row in rows])
    tokens = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(model.device)
    read = torch.arange(tokens.shape[1] - 1) < lengths[:, None]  # (rows, tokens); the last token is never read
    read = read.to(model.device)
    trunk: nn.Module = model.get_decoder()
    hidden = trunk(input_ids=tokens[:, :-1], attention_mask=read.long(), use_cache=False).last_hidden_state
    hidden, targets = hidden[read], tokens[:, 1:][read]  # (scored, hidden), (scored,)
    at_once = max(1, _LOGITS_AT_ONCE // model.config.get_text_config().vocab_size)
    parts = [
        nn.functional.cross_entropy(logits_of(model, states), wanted, reduction="none")
        for states, wanted in zip(hidden.split(at_once), targets.split(at_once), strict=True)
    ]
    return torch.stack([part.sum() for part in torch.cat(parts).double().cpu().split(lengths.tolist())])


@lru_cache(maxsize=8)
def _tokenized(
    texts: tuple[str, ...], tokenizer: PreTrainedTokenizerBase, max_tokens: int, state: Hashable
) -> tuple[Row, ...]:
    rows = tuple(encoded(tokenizer, texts, max_tokens))
    for i, (text, row) in enumerate(zip(texts, rows, strict=True), start=1):
        if len(row) < 2:
            raise ValueError(f"text {i} ({text[:60]!r}) has {len(row)} token, so nothing to predict; leave it out.")
    return rows


def _require_readable(model: PreTrainedModel, rows: Sequence[Row]) -> None:
    if model.training:
        raise ValueError("the model is in training mode, where dropout changes its scores; call model.eval() first.")
    if model.get_output_embeddings() is None:
        raise ValueError(f"{type(model).__name__} has no output head over a vocabulary, so no perplexity.")
    most = most_positions(model)
    for i, row in enumerate(rows, start=1):
        if most is not None and len(row) - 1 > most:
            raise ValueError(
                f"text {i} takes {len(row) - 1} positions, but the model reads {most}; give max_tokens={most + 1}."
            )
