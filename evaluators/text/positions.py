"""How far a model reads, and from which length on it computes texts in another way."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from transformers import PreTrainedModel

# Their frequencies never depend on a text's length; those of "dynamic" do where it is longer than the model reads.
_ONE_WAY = frozenset({"default", "linear", "yarn", "llama3", "proportional", "dynamic"})


def most_positions(model: PreTrainedModel) -> int | None:
    """The number of tokens that `model` was made to read at most; None where its positions have no end."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def switching_lengths(model: PreTrainedModel) -> tuple[int, ...]:
    """The lengths beyond which `model` computes all of a text otherwise, ascending; mostly none.

    LongRoPE chooses its frequencies by the longest text of a batch (Phi-3, arXiv 2402.13753): only texts of the same
    `regime` may share one, or scores would depend on the company.

    Raises:
        ValueError: the model's rotary embedding is of a kind that is not known to be either.
    """
    found: dict[str, object] = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    kinds = [kind for kind in found.values() if isinstance(kind, dict)] or [found]  # by type of layer, or one for all
    lengths = set()
    for kind in kinds:
        name = kind.get("rope_type", "default")
        if name == "longrope":
            lengths.add(int(kind["original_max_position_embeddings"]))
        elif name not in _ONE_WAY:
            raise ValueError(
                f"the model's rope_type is {name!r}, of which it is not known whether long texts change how short ones "
                f"beside them are read; known are longrope, {', '.join(sorted(_ONE_WAY))}."
            )
    return tuple(sorted(lengths))


def regime(tokens: int, lengths: Sequence[int]) -> int:
    """How many of the ascending `lengths` a text of so many `tokens` exceeds."""
    return bisect_left(lengths, tokens)
