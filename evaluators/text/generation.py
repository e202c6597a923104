"""Greedy generation for many prompts at once, with a KV cache, through transformers' `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from evaluators.text.encoding import token_ids
from evaluators.text.halving import Halving
from evaluators.text.positions import most_positions, regime, switching_lengths


@dataclass(frozen=True)
class Written:
    """What a model added to a prompt.

    Args:
        text: without what ended it.
        tokens: ids that it consists of.
        ended: whether the model, or a stop text, ended it, and not the limit of new tokens.
    """

    text: str
    tokens: tuple[int, ...]
    ended: bool


def greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    stop: Sequence[str] = (),
    budget: Halving | None = None,
) -> list[str]:
    """The texts of `written`, with the same arguments.

    Raises:
        ValueError, MemoryError: as `written`.
    """
    return [found.text for found in written(model, tokenizer, prompts, max_new_tokens, stop, budget)]


@torch.inference_mode()
def written(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    stop: Sequence[str] = (),
    budget: Halving | None = None,
) -> list[Written]:
    """What `model` adds to each prompt when it always takes the likeliest token.

    Prompts of similar length share a batch, padded on the left. Whatever the model's own generation settings say of
    sampling, beams or penalties is not followed.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: its tokenizer.
        prompts: any number.
        max_new_tokens: at most so many tokens are added to a prompt.
        stop: a text ends before the first of these that occurs in it.
        budget: tokens of one batch, padding and new tokens included; changes no text.

    Raises:
        ValueError: the model is in training mode, its rotary embedding is of an unknown kind, or a prompt is empty or
            too long for it (the prompt is named).
        MemoryError: not even one prompt alone fits.
    """
    if model.training:
        raise ValueError("the model is in training mode, where dropout changes its texts; call model.eval() first.")
    rows = require_generable(model, tokenizer, prompts, max_new_tokens)
    settings = _settings(model, tokenizer, max_new_tokens, stop)
    budget = budget or Halving(8192)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    found: list[Written | None] = [None] * len(rows)
    company = _company(model, rows, max_new_tokens)
    done = 0
    while done < len(order):

        def next_batch(tokens: int, start: int = done) -> tuple[list[int], list[Written]]:
            longest = order[start]
            chosen = order[start : start + max(1, tokens // (len(rows[longest]) + max_new_tokens))]
            chosen = [i for i in chosen if company[i] == company[longest]]
            new = _generate(model, tokenizer, [rows[i] for i in chosen], settings)
            return chosen, [_written(tokenizer, ids, settings.eos_token_id, stop) for ids in new.tolist()]

        chosen, batch = budget.run(next_batch)
        for i, text in zip(chosen, batch, strict=True):
            found[i] = text
        done += len(chosen)
    return [text for text in found if text is not None]


def longest_row(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int) -> int:
    """Tokens of the longest prompt with what is added to it: the least that a batch takes."""
    return max(map(len, token_ids(tokenizer, prompts))) + max_new_tokens


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[list[int]],
    settings: GenerationConfig,
) -> Tensor:
    width = max(map(len, rows))
    input_ids = torch.full((len(rows), width), settings.pad_token_id)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        input_ids[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = 1
    arguments: dict[str, Any] = {"tokenizer": tokenizer} if settings.stop_strings else {}
    with _alone(model, settings):
        output: Tensor = model.generate(  # type: ignore[operator]  # torch types a module's attributes as tensors too
            input_ids=input_ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=settings,
            **arguments,
        )
    return output[:, width:]  # (rows, new tokens)


def _company(model: PreTrainedModel, rows: Sequence[list[int]], max_new_tokens: int) -> list[tuple[int, int]]:
    """Rows of equal values may share a batch: all are read in one way throughout, or they change over together."""
    switching = switching_lengths(model)
    ends = ((regime(len(row), switching), regime(len(row) + max_new_tokens, switching)) for row in rows)
    return [(now, 0 if now == then else len(row)) for row, (now, then) in zip(rows, ends, strict=True)]


@contextmanager
def _alone(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    """`generate` fills whatever `settings` leave open from the model's own: greedy would be as greedy as those are."""
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own


def _settings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, stop: Sequence[str]
) -> GenerationConfig:
    own = getattr(model, "generation_config", None)
    eos = getattr(own, "eos_token_id", None)
    eos = tokenizer.eos_token_id if eos is None else eos
    first_eos = eos[0] if isinstance(eos, list) else eos
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else first_eos
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,
        eos_token_id=eos,
        pad_token_id=pad if pad is not None else 0,
        stop_strings=list(stop) or None,
    )


def _written(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], eos: int | list[int] | None, stop: Sequence[str]
) -> Written:
    ends = set(eos if isinstance(eos, list) else [eos])
    length = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    text = str(tokenizer.decode(ids[:length], skip_special_tokens=True))
    kept = text[: min((text.index(end) for end in stop if end in text), default=len(text))]
    return Written(kept, tuple(ids[:length]), length < len(ids) or len(kept) < len(text))


def require_generable(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int
) -> list[list[int]]:
    """Token ids of every prompt, which `model` can go on from.

    Raises:
        ValueError: a prompt is empty or too long (it is named).
    """
    rows = [list(row) for row in token_ids(tokenizer, prompts)]
    most = most_positions(model)
    for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True), start=1):
        if not row:
            raise ValueError(f"prompt {i} ({prompt[:60]!r}) has no token; give it some text.")
        if most is not None and len(row) + max_new_tokens > most:
            raise ValueError(
                f"prompt {i} ({prompt[:60]!r}) takes {len(row)} tokens and up to {max_new_tokens} new ones, but the "
                f"model reads {most}; shorten it, or give fewer max_new_tokens."
            )
    return rows
