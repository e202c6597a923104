"""A compressed model's folder, loaded with the code of this package instead of the folder's own."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from nas_engine.compression.checkpoint import load_base
from nas_engine.compression.grid import Grid
from nas_engine.models import ModelError
from nas_engine.supernet import modeling_subnetwork as runtime
from nas_engine.supernet.families import family_of


def load_compressed(
    folder: str | Path, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Grid]]:
    """The model, its tokenizer, and the grids of quantized matrices by path.

    Raises:
        ModelError: nothing that loads is there.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} holds no model: {error}.") from error
    if "subnetwork" not in config:
        model, tokenizer, quantization = load_base(str(folder), dtype)
        family = family_of(model)
        grids = quantization.grids if quantization else {}
        return model, tokenizer, {family.path(name): grid for name, grid in grids.items()}
    if config.get("quantization_config"):
        raise ModelError(f"{folder} is quantized, its layers differ: export it from Python, with subnet.export(…).")
    kind = str(config["architectures"][0])
    loaded: PreTrainedModel = getattr(runtime, kind).from_pretrained(folder, dtype=dtype)
    return loaded.eval(), AutoTokenizer.from_pretrained(folder), {}
