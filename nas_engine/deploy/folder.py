"""A compressed model's folder, loaded with the code of this package instead of the folder's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.documents import read_document
from nas_engine.compression.checkpoint import load_base
from nas_engine.compression.grid import Grid
from nas_engine.errors import ModelError
from nas_engine.families import modeling_subnetwork as runtime
from nas_engine.families.descriptions import family_of
from nas_engine.models import load_model


def load_compressed(folder: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Grid]]:
    """The model in fp32, its tokenizer, and the grids of quantized matrices by path.

    Raises:
        ModelError: nothing that loads is there, or weights are missing.
    """
    config = read_document(Path(folder) / "config.json", dict[str, Any], ModelError, f"{folder} holds no model")
    if "subnetwork" not in config:
        model, tokenizer, quantization = load_base(str(folder))
        family = family_of(model)
        grids = quantization.grids if quantization else {}
        return model, tokenizer, {family.path(name): grid for name, grid in grids.items()}
    if config.get("quantization_config"):
        raise ModelError(f"{folder} is quantized, its layers differ: export it from Python, with subnet.export(…).")
    named = config.get("architectures")
    architecture = getattr(runtime, str(named[0]), None) if isinstance(named, list) and named else None
    if architecture is None:
        raise ModelError(
            f"{folder} holds a model of {named!r}, and not one that save_pretrained of a sub-network wrote."
        )
    model, tokenizer = load_model(folder, architecture=architecture)
    return model, tokenizer, {}
