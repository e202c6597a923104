"""A model's output head on chosen positions, so that logits are computed where they are needed alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def logits_of(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """The logits of final hidden states, in fp32, as the model's own forward pass computes them.

    Args:
        model: a causal language model.
        hidden: the trunk's last hidden states, shape (…, hidden).

    Returns:
        shape (…, vocabulary), soft-capped where the family does so (Gemma 2).
    """
    head: nn.Module = model.get_output_embeddings()
    logits: Tensor = head(hidden).float()
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)
