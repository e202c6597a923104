"""A model as a GGUF file, compared with what transformers computes."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import cast

from transformers import PreTrainedTokenizerBase

from nas_engine.deploy.exported import Check, ExportRequest, Weights
from nas_engine.deploy.extracted_sizes import extracted_sizes
from nas_engine.deploy.gguf_architecture import architecture_of, built_as
from nas_engine.deploy.gguf_check import compared_as_stored, require_exact
from nas_engine.deploy.gguf_file import write_gguf
from nas_engine.deploy.gguf_tensors import GgufPlan
from nas_engine.deploy.llama_cpp import require_llama_cpp
from nas_engine.errors import NasEngineWarning
from nas_engine.families.descriptions import family_of


def export_gguf(
    asked: ExportRequest, written_tokenizer: PreTrainedTokenizerBase | Path, file: Path
) -> tuple[str, Check | None]:
    """Write and check; llama.cpp's name of the architecture, and what the check found.

    Where a check is asked for, everything is written in fp32 first: what llama.cpp computes from that must be what
    transformers does, to the order of sums. What is rounded comes after, for its difference depends on the texts.

    Raises:
        ExportError: llama.cpp cannot express the model, is not installed, or computes something else in fp32.
    """
    if asked.check:
        require_llama_cpp()
    model, tokenizer, texts = asked.model, asked.tokenizer, asked.texts
    weights, title = cast("Weights | None", asked.weights), asked.file.stem
    known, family = architecture_of(model.config), family_of(model)
    blocks = extracted_sizes(model, family)
    plan = GgufPlan(model, family, known, built_as(model, known, blocks), blocks, weights, asked.grids)
    found = None
    if asked.check:
        write_gguf(replace(plan, weights="f32"), written_tokenizer, file, title)
        found = require_exact(plan, tokenizer, file, texts)
        if weights == "f32":
            return plan.built, found
    write_gguf(plan, written_tokenizer, file, title)
    if found is None:
        return plan.built, None
    found = compared_as_stored(plan, tokenizer, file, texts, found.exact)
    if found.difference > found.tolerance:
        warnings.warn(
            f"the file is right, to {found.exact:.2g} nats in fp32; but as it is stored, llama.cpp rounds activations "
            f"too, and on the texts of the check log-probabilities change by up to {found.difference:.2g} nats, where "
            f"{found.tolerance:g} is usual. Give texts of the kind that the model is for to see what it means there.",
            NasEngineWarning,
            stacklevel=4,
        )
    return plan.built, found
