"""Super-networks on disk: safetensors and JSON, the base model by name where it has one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.documents import read_document
from evaluators.whole_file import replacing
from nas_engine.compression.checkpoint import load_base, save_on_grids
from nas_engine.compression.grid_file import load_grids, save_grids
from nas_engine.compression.quantization import Quantization
from nas_engine.errors import CheckpointError
from nas_engine.families.fingerprint import base_fingerprint, tokenizer_fingerprint
from nas_engine.families.plain import require_plain
from nas_engine.supernet.elastic import ElasticLinear
from nas_engine.supernet.elastic_model import ElasticModel
from nas_engine.supernet.saving import later, save_sharded
from nas_engine.supernet.state import adapter_tensors
from search_spaces import SearchSpace, SpaceError

_FORMAT = 4


@dataclass(frozen=True)
class _Description:
    """What ``supernet.json`` holds; `tensors` is a digest, which older saves lack, as they lack a target."""

    format: int
    base: str | None
    base_fingerprint: str
    adapter: dict[str, Any]
    space: dict[str, Any]
    database: str | None = None
    tensors: str | None = None
    target: str | None = None


@dataclass(frozen=True)
class SavedSuperNetwork:
    """The arguments that a saved super-network is made of anew."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    space: SearchSpace
    adapter: dict[str, Any]
    base: str | None
    quantization: Quantization | None
    database: str | None
    target: str | None


def fingerprint(supernet: ElasticModel) -> str:
    """16 hexadecimal digits of base, tokenizer, adapters, their scales and the space."""
    scales = {name: layer.scaling for name, layer in sorted(supernet.elastic_linears.items())}
    tokenizer = tokenizer_fingerprint(supernet.tokenizer)
    parts = [supernet.base_fingerprint, tokenizer, supernet.space.fingerprint(), json.dumps(scales)]
    if supernet.quantization is not None or supernet.adapter.mode != "plain":
        parts.append(supernet.adapter.mode)
    if supernet.database is not None:
        parts.append(supernet.database.identity)
    return _digest(adapter_tensors(supernet), "\n".join(parts))


def _digest(tensors: Mapping[str, Tensor], about: str = "") -> str:
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def save_supernetwork(supernet: ElasticModel, folder: Path, include_base: bool) -> Path:
    """Write `supernet` into `folder`; see `SuperNetwork.save`."""
    tensors = {name: tensor.contiguous() for name, tensor in adapter_tensors(supernet).items()}
    description = {
        "format": _FORMAT,
        "base": None if include_base else supernet.base,
        "base_fingerprint": supernet.base_fingerprint,
        "adapter": asdict(supernet.adapter),
        "database": None if supernet.database is None else str(supernet.database.folder.resolve()),
        "space": supernet.space.to_json(),
        "tensors": _digest(tensors),
        "target": supernet.target,
    }
    supernet.restore_base()
    with replacing(folder) as unfinished:
        unfinished.mkdir()
        save_file(tensors, unfinished / "adapter.safetensors")
        if supernet.quantization is not None:
            save_grids(supernet.quantization.grids, unfinished / "grids.safetensors")
        if include_base:  # as floating-point weights: those under adapters on a grid are unrounded
            save_sharded(supernet.model, unfinished / "base", _original_weights(supernet))
            supernet.tokenizer.save_pretrained(unfinished / "base")
        (unfinished / "supernet.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return folder


def save_base(supernet: ElasticModel, folder: Path) -> Path:
    """Write the base model of `supernet`; see `SuperNetwork.save_base`."""
    weights = _original_weights(supernet, at_once=supernet.quantization is not None)
    with replacing(folder) as unfinished:
        if supernet.quantization is None:
            save_sharded(supernet.model, unfinished, weights)
        else:
            grids = {supernet.family.path(name): grid for name, grid in supernet.quantization.grids.items()}
            save_on_grids(supernet.model, grids, unfinished, weights)
        supernet.tokenizer.save_pretrained(unfinished)
    return folder


def read_supernetwork(folder: Path, dtype: torch.dtype) -> tuple[SavedSuperNetwork, dict[str, Tensor]]:
    """What `save_supernetwork` wrote: the pieces, and the state to load once they are put together.

    Raises:
        CheckpointError: a file is missing or of another format.
    """
    file = folder / "supernet.json"
    described = read_document(file, _Description, CheckpointError, f"{folder} holds no saved super-network")
    if described.format != _FORMAT:
        raise CheckpointError(f"{folder} has the format {described.format}; this version reads {_FORMAT}.")
    try:
        space = SearchSpace.from_json(described.space)
        tensors = load_file(folder / "adapter.safetensors")
    except (OSError, SpaceError, SafetensorError) as error:
        raise CheckpointError(f"{folder} holds no saved super-network: {error}") from error
    if described.tensors not in (None, _digest(tensors)):
        raise CheckpointError(f"{folder / 'adapter.safetensors'} is not the file that was saved with {file}.")
    model, tokenizer, quantization = load_base(described.base or str(folder / "base"), dtype)
    if (folder / "grids.safetensors").exists():
        quantization = Quantization(load_grids(folder / "grids.safetensors"))
    if base_fingerprint(model, require_plain(model).head) != described.base_fingerprint:
        raise CheckpointError(
            f"{described.base or folder / 'base'} is not the model that {folder} was trained on; "
            "its weights or their type have changed. Load with the dtype that it was saved in."
        )
    saved = SavedSuperNetwork(
        model,
        tokenizer,
        space,
        described.adapter,
        described.base,
        quantization,
        described.database,
        described.target,
    )
    return saved, tensors


def _original_weights(supernet: ElasticModel, at_once: bool = False) -> dict[str, Tensor]:
    """The base model's state dict, adapters left out and channels back in their original order.

    Those that are in another one are put back when they are written, unless all are wanted `at_once`.
    """
    modules = {supernet.family.path(name): name for name in supernet.elastic_linears}
    mixtures = {
        f"{supernet.family.layers}.{layer.index}.{path}": layer.mixture
        for layer in supernet.layers
        if layer.mixture is not None
        for path in layer.mixture.paths
    }
    weights = {}
    for key, tensor in supernet.model.state_dict().items():
        owner, _, kind = key.rpartition(".")
        if kind in ("lora_A", "lora_B"):
            continue
        if owner in modules:
            make = partial(_original, supernet, modules[owner], kind, tensor)
            tensor = (
                make() if at_once else later(_outline(supernet.elastic_linears[modules[owner]], tensor, kind), make)
            )
        if owner in mixtures:
            tensor = mixtures[owner].original(kind, tensor)  # transformers parts experts before it writes them
        weights[key] = tensor
    return weights


def _outline(linear: ElasticLinear, tensor: Tensor, kind: str) -> Tensor:
    """A tensor of the shape and type of what is written, without numbers."""
    return tensor if kind != "weight" or not linear.packed else linear.outline_of_weight()


def _original(supernet: ElasticModel, module: str, kind: str, tensor: Tensor) -> Tensor:
    """Weight or bias of an elastic projection in the original order."""
    linear = supernet.elastic_linears[module]
    transposed = linear.transposed and kind == "weight"
    tensor = linear.matrix.detach() if kind == "weight" else tensor  # of whatever it is held as
    tensor = tensor[supernet.original_outputs(module)]
    tensor = tensor[:, supernet.original_inputs(module)] if kind == "weight" else tensor
    return (tensor.T if transposed else tensor).contiguous()
