"""How far a model reads."""

from __future__ import annotations

from transformers import PreTrainedModel


def most_positions(model: PreTrainedModel) -> int | None:
    """The number of tokens that `model` was made to read at most; None where its positions have no end."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)
