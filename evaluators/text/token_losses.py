"""How surprised a model is by tokens that it is to say: their summed losses, a row at a time, in any batches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from evaluators.protocol import Measurement
from evaluators.text.examples import TokenizedExample
from evaluators.text.halving import Halving
from evaluators.text.head import logits_of
from evaluators.text.positions import most_positions, regime, switching_lengths

_LOGITS_AT_ONCE = 2**24  # elements of the largest block of logits: 64 MB in fp32


def require_scorable(model: PreTrainedModel, rows: Sequence[TokenizedExample], what: str, cure: str) -> None:
    """Check that `model` can score every row.

    Args:
        model: a causal language model.
        rows: each with a scored token.
        what: a row is, such as ``text``.
        cure: what to do about one that is too long; in it, ``{most}`` stands for how many tokens would do.

    Raises:
        ValueError: it is in training mode, has no output head, or a row is longer than it reads (the row is named).
    """
    if model.training:
        raise ValueError("the model is in training mode, where dropout changes its scores; call model.eval() first.")
    if model.get_output_embeddings() is None:
        raise ValueError(f"{type(model).__name__} has no output head over a vocabulary, so no perplexity.")
    most = most_positions(model)
    for i, row in enumerate(rows, start=1):
        read = row.spans[-1][1] - 1
        if most is not None and read > most:
            raise ValueError(
                f"{what} {i} takes {read} positions, but the model reads {most}; {cure.format(most=most + 1)}."
            )


def perplexity_of(model: PreTrainedModel, rows: Sequence[TokenizedExample], budget: Halving) -> Measurement:
    """``exp`` of the mean loss of a scored token, over all rows.

    The standard error is that of a ratio of sums over independent rows, carried through ``exp`` by the delta method.

    Args:
        model: as in `scored_losses`.
        rows: two or more.
        budget: as in `scored_losses`.
    """
    losses = scored_losses(model, rows, budget)
    tokens = torch.tensor([row.scored for row in rows], dtype=torch.double)
    mean = losses.sum() / tokens.sum()
    n = len(rows)
    residuals = losses - mean * tokens  # (rows,)
    stderr = (residuals.square().sum() / (n - 1) / n).sqrt() / tokens.mean()
    value = math.exp(mean.item())
    return Measurement(value=value, stderr=value * stderr.item(), n=n)


def batch_budget(rows: Sequence[TokenizedExample], token_budget: int) -> Halving:
    """A budget that begins with `token_budget`, and never falls below the longest row: there is nothing to halve."""
    longest = max(row.spans[-1][1] for row in rows)
    return Halving(max(token_budget, longest), least=longest)


@torch.inference_mode()
def scored_losses(model: PreTrainedModel, rows: Sequence[TokenizedExample], budget: Halving) -> Tensor:
    """Summed negative log-likelihood of every row's scored tokens, shape (rows,), fp64 on the CPU.

    Args:
        model: a causal language model in evaluation mode.
        rows: each with a scored token after its first.
        budget: tokens of one batch with its padding.
    """
    # What follows the last scored token changes nothing.
    ids = [row.tokens[: row.spans[-1][1]] for row in rows]
    order = sorted(range(len(rows)), key=lambda i: -len(ids[i]))  # the batch that needs most memory comes first
    losses = torch.empty(len(rows), dtype=torch.double)
    switching = switching_lengths(model)
    ways = [regime(len(row) - 1, switching) for row in ids]
    done = 0
    while done < len(order):

        def next_batch(tokens: int, start: int = done) -> tuple[list[int], Tensor]:
            longest = order[start]
            chosen = order[start : start + max(1, tokens // len(ids[longest]))]
            chosen = [i for i in chosen if ways[i] == ways[longest]]
            return chosen, _batch_losses(model, [ids[i] for i in chosen], [rows[i] for i in chosen])

        chosen, batch_losses = budget.run(next_batch)
        losses[chosen] = batch_losses
        done += len(chosen)
    return losses


def _batch_losses(model: PreTrainedModel, ids: Sequence[tuple[int, ...]], rows: Sequence[TokenizedExample]) -> Tensor:
    lengths = torch.tensor([len(row) - 1 for row in ids])
    tokens = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True).to(model.device)
    read = torch.arange(tokens.shape[1] - 1) < lengths[:, None]  # (rows, tokens); the last token is never read
    predicts = torch.zeros_like(read)  # (rows, tokens): whether the next token is scored
    for i, row in enumerate(rows):
        for start, end in row.spans:
            predicts[i, max(start, 1) - 1 : end - 1] = True
    read, predicts = read.to(model.device), predicts.to(model.device)
    trunk: nn.Module = model.get_decoder()
    hidden = trunk(input_ids=tokens[:, :-1], attention_mask=read.long(), use_cache=False).last_hidden_state
    hidden, targets = hidden[predicts], tokens[:, 1:][predicts]  # (scored, hidden), (scored,)
    at_once = max(1, _LOGITS_AT_ONCE // model.config.get_text_config().vocab_size)
    parts = [
        nn.functional.cross_entropy(logits_of(model, states), wanted, reduction="none")
        for states, wanted in zip(hidden.split(at_once), targets.split(at_once), strict=True)
    ]
    return torch.stack([part.sum() for part in torch.cat(parts).double().cpu().split([row.scored for row in rows])])
