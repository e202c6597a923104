"""A BPE of SentencePiece, as tokenizers keeps it, in SentencePiece's own terms: scores of pieces, a space in front.

SentencePiece joins the neighbours whose piece has the highest score; tokenizers those whose pair was listed first. A
piece's score is therefore minus the place of the first pair that makes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nas_engine.errors import ExportError

SPACE = "\u2581"
_NEVER = -1e6  # of pieces that no pair makes: letters, bytes and special tokens are there without being joined
_TO_SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


def scores_of(tokens: Sequence[str], merges: Sequence[tuple[str, ...]]) -> list[float]:
    """The score of every token, the higher the sooner it is joined."""
    first: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        first.setdefault("".join(pair), rank)
    return [-float(first[token]) if token in first else _NEVER for token in tokens]


def prefixes_space(state: Mapping[str, Any]) -> bool:
    """Whether text gets a space in front, as far as `state`, a ``tokenizer.json``, does what SentencePiece does.

    Raises:
        ExportError: it changes or splits text in another way.
    """
    normalizer, before = state.get("normalizer") or {}, state.get("pre_tokenizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    if before.get("type") == "Metaspace" and not steps:
        if before.get("replacement") == SPACE and not before.get("split", True):
            return bool(before.get("prepend_scheme", "always") != "never")
    # Gemma splits at spaces that there are no more; words are then one.
    elif not before or (before.get("type") == "Split" and before.get("pattern") == {"String": " "}):
        if steps == [_TO_SPACE]:
            return False
        if steps == [{"type": "Prepend", "prepend": SPACE}, _TO_SPACE]:
            return True
    raise ExportError(
        f"the tokenizer changes text in a way that is not written for llama.cpp ({json.dumps(normalizer)[:100]}, "
        f"{json.dumps(before)[:100]}); give the GGUF file of the base model, from which the tokenizer is copied."
    )
