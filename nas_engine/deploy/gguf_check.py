"""Whether llama.cpp computes from a file what transformers computes from the model: tokens, probabilities, text."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from nas_engine.compression.sparsification import matrix_of
from nas_engine.deploy.agreement import FP32_TOLERANCE, NEW_TOKENS, compared
from nas_engine.deploy.exported import Check
from nas_engine.deploy.gguf_architecture import context_length
from nas_engine.deploy.gguf_encoding import dequantized
from nas_engine.deploy.gguf_tensors import GgufPlan, stored_matrices
from nas_engine.deploy.llama_cpp import read_and_continued
from nas_engine.errors import ExportError

# Of what is stored with fewer bits, where llama.cpp rounds activations too: to fp16, bf16, or blocks of 8 bits.
TOLERANCES = {"f16": 0.05, "bf16": 0.2, "q8_0": 0.5, "q4_0": 0.5, None: 0.5}


def require_exact(plan: GgufPlan, tokenizer: PreTrainedTokenizerBase, file: Path, texts: Sequence[str]) -> Check:
    """Check that llama.cpp reads and computes from `file`, written in fp32, what transformers does.

    Raises:
        ExportError: llama.cpp does not load it, reads other tokens, or computes something else.
    """
    texts = [*texts, "".join(texts)]
    encoded = [tokenizer(text)["input_ids"] for text in texts]
    prompts = _fitting(encoded, plan)
    read, paths = read_and_continued(file, texts, prompts, NEW_TOKENS)
    for text, found, expected in zip(texts, read, encoded, strict=True):
        if found != expected:
            raise ExportError(
                f"llama.cpp reads {text!r} as the tokens {found}, transformers as {expected}; "
                "give the GGUF file of the base model, from which the tokenizer is copied."
            )
    exact, same_text = compared(plan.model, prompts, paths, FP32_TOLERANCE)
    if not exact <= FP32_TOLERANCE or not same_text:
        raise ExportError(
            f"llama.cpp computes log-probabilities that differ by up to {exact:.3g} nats from transformers in fp32, "
            f"where at most {FP32_TOLERANCE:g} is expected, and {'the same' if same_text else 'another'} text. No file "
            "was kept."
        )
    return Check(exact, exact, exact, same_text, FP32_TOLERANCE, sum(map(len, paths)))


@torch.no_grad()
def compared_as_stored(
    plan: GgufPlan, tokenizer: PreTrainedTokenizerBase, file: Path, texts: Sequence[str], exact: float
) -> Check:
    """How far llama.cpp is with `file`, whose weights are rounded.

    Raises:
        ExportError: llama.cpp does not load it.
    """
    prompts = _fitting([tokenizer(text)["input_ids"] for text in texts], plan)
    _, paths = read_and_continued(file, (), prompts, NEW_TOKENS)
    tolerance = TOLERANCES[plan.weights]
    stored = copy.deepcopy(plan.model)
    for path, value in stored_matrices(plan):
        matrix_of(stored.get_submodule(path)).copy_(dequantized(value))
    difference, same_text = compared(stored, prompts, paths, tolerance)
    rounding, _ = compared(plan.model, prompts, paths, tolerance)
    return Check(exact, difference, rounding, same_text, tolerance, sum(map(len, paths)))


def _fitting(encoded: Sequence[list[int]], plan: GgufPlan) -> list[list[int]]:
    """As much of each text as the model reads with the new tokens behind it."""
    most = context_length(plan.model.config) - NEW_TOKENS - 1
    return [tokens[: max(1, most)] for tokens in encoded if tokens]
