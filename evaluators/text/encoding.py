"""Texts as token ids, whatever a tokenizer puts around them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import takewhile
from typing import Any

from transformers import PreTrainedTokenizerBase

_PROBES = ("The quick brown fox", " jumps over 13 lazy dogs.\n")


def token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int | None = None
) -> list[tuple[int, ...]]:
    """Token ids of each text, with what the tokenizer puts before it and without what it puts after it.

    What follows a text would come between a prompt and its continuation.

    Args:
        tokenizer: of the model.
        texts: any number.
        max_tokens: a longer text is cut off after so many tokens.
    """
    after = _after(tokenizer)
    cut: dict[str, Any] = {} if max_tokens is None else {"truncation": True, "max_length": max_tokens + after}
    rows: list[list[int]] = tokenizer(list(texts), **cut)["input_ids"]
    return [tuple(row[: len(row) - after]) for row in rows]


def shared_start(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with: up to there a prompt is read, from there on its continuation is scored.

    Mostly all of the prompt's; fewer where a token spans the boundary.
    """
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def encoding_state(tokenizer: PreTrainedTokenizerBase) -> Hashable:
    """What changes when a tokenizer is told to encode otherwise, for caches: tokenizers can be changed in place."""
    return (len(tokenizer), *(tuple(row) for row in tokenizer(list(_PROBES))["input_ids"]))


def _after(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens the tokenizer puts after a text."""
    probe = _PROBES[0]
    around, alone = tokenizer(probe)["input_ids"], tokenizer(probe, add_special_tokens=False)["input_ids"]
    extra = len(around) - len(alone)
    before = next((k for k in range(extra + 1) if around[k : k + len(alone)] == alone), extra)
    return extra - before
