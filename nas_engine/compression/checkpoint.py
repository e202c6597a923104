"""Quantized models on disk in compressed-tensors' pack-quantized format, which transformers and vLLM load.

Written from a model whose weights lie on their grids; anything that does not is refused, so that what loads computes
exactly what was measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.documents import decoded, read_document
from evaluators.whole_file import replacing
from nas_engine.compression.grid import Grid, GridSettings, dequantize, quantize
from nas_engine.compression.quantization import Quantization
from nas_engine.errors import CompressionError
from nas_engine.families.descriptions import family_of
from nas_engine.families.plain import ElasticProjection
from nas_engine.models import load_model
from nas_engine.progress import without_bars
from search_spaces import ModuleName

FORMAT = "pack-quantized"
_METHOD = "compressed-tensors"
_INSTALL = "INT4 and INT8 files need compressed-tensors; install it with: pip install 'nas-engine[quantized]'"


def save_quantized(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, quantization: Quantization, folder: str | Path
) -> Path:
    """Write a model that `quantize_model` changed; ``AutoModelForCausalLM.from_pretrained(folder)`` loads it.

    Args:
        model: its weights lie on the grids of `quantization`.
        tokenizer: is saved beside it.
        quantization: the grids.
        folder: is made.

    Raises:
        CompressionError: a weight is off its grid, a quantized layer is no plain linear layer, or compressed-tensors is
            not installed.
    """
    family = family_of(model)
    grids = {family.path(name): grid for name, grid in quantization.grids.items()}
    with replacing(folder) as unfinished:
        save_on_grids(model, grids, unfinished)
        tokenizer.save_pretrained(unfinished)
    return Path(folder)


def save_on_grids(
    model: PreTrainedModel, grids: Mapping[str, Grid], folder: Path, weights: Mapping[str, Tensor] | None = None
) -> None:
    """As `save_quantized`, for grids by the paths of their layers; no tokenizer is saved.

    Args:
        model: its architecture, and its weights unless `weights` are given.
        grids: of the quantized layers, by path.
        folder: is made.
        weights: the state dict to save instead of the model's own.

    Raises:
        CompressionError: as `save_quantized`.
    """
    state = {name: tensor.detach() for name, tensor in (weights or model.state_dict()).items()}
    for path, grid in grids.items():
        _require_linear(model.get_submodule(path), path)
        state |= {f"{path}.{name}": t for name, t in packed(state.pop(f"{path}.weight"), grid, path).items()}
    with without_bars():
        model.save_pretrained(folder, state_dict=state)
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["quantization_config"] = quantization_config(model, grids)
    config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def packed(weight: Tensor, grid: Grid, where: str = "a weight") -> dict[str, Tensor]:
    """The tensors that a checkpoint holds instead of `weight`, by their names in the layer.

    Raises:
        CompressionError: `weight` is off `grid`, or compressed-tensors is not installed.
    """
    pack_to_int32, _ = _packing()
    grid = grid.to(weight.device)
    integers = quantize(weight, grid)
    off = int((dequantize(integers, grid) != weight).sum())
    if off:
        raise CompressionError(
            f"{where} has {off} of {weight.numel()} weights off its {grid.settings.bits}-bit grid, which "
            "integers cannot express; merge its adapter with adapter_mode='quantized', or save the model unquantized."
        )
    tensors = {
        "weight_packed": pack_to_int32(integers, grid.settings.bits),
        "weight_scale": grid.scale.contiguous(),
        "weight_shape": torch.tensor(weight.shape),
    }
    if not grid.settings.symmetric:
        zero_point = pack_to_int32(grid.zero_point.contiguous(), grid.settings.bits, packed_dim=0)
        tensors["weight_zero_point"] = zero_point.contiguous()
    return tensors


def unpacked(tensors: Mapping[str, Tensor], settings: GridSettings) -> tuple[Tensor, Grid]:
    """The integers and the grid of what `packed` gave."""
    _, unpack_from_int32 = _packing()
    shape = torch.Size(tensors["weight_shape"].tolist())
    scale = tensors["weight_scale"]
    zero_point = torch.zeros_like(scale, dtype=torch.int8)
    if not settings.symmetric:
        zero_point = unpack_from_int32(tensors["weight_zero_point"], settings.bits, scale.shape, packed_dim=0)
    return unpack_from_int32(tensors["weight_packed"], settings.bits, shape), Grid(settings, scale, zero_point)


def quantization_config(model: PreTrainedModel, grids: Mapping[str, Grid]) -> dict[str, Any]:
    """What `config.json` says of `grids`, by the paths of their layers: one group for each kind of grid."""
    groups: dict[GridSettings, list[str]] = {}
    for path, grid in grids.items():
        groups.setdefault(grid.settings, []).append(path)
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return {
        "quant_method": _METHOD,
        "format": FORMAT,
        "quantization_status": "compressed",
        "ignore": [name for name in linears if name not in grids],
        "config_groups": {
            f"group_{i}": {
                "targets": paths,
                "weights": {
                    "num_bits": settings.bits,
                    "type": "int",
                    "symmetric": settings.symmetric,
                    "strategy": "group",
                    "group_size": settings.group_size,
                    "dynamic": False,
                },
                "input_activations": None,
                "output_activations": None,
            }
            for i, (settings, paths) in enumerate(groups.items())
        },
    }


def require_packable(model: PreTrainedModel) -> None:
    """Check that `model`, once quantized, can be saved.

    Raises:
        CompressionError: a projection is no plain linear layer, or compressed-tensors is not installed.
    """
    _packing()
    family = family_of(model)
    for index in range(len(list(model.get_submodule(family.layers).children()))):
        for projection in family.projections:
            path = family.path(str(ModuleName(index, projection)))
            _require_linear(model.get_submodule(path), path)


def load_quantized(
    folder: str | Path, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Quantization]:
    """A model that `save_quantized` wrote, its weights dequantized, with the grids that they lie on.

    Raises:
        CompressionError: the folder holds no INT4 or INT8 groups in the pack-quantized format.
        ModelError: nothing that loads is there.
    """
    folder = Path(folder)
    document = read_document(
        folder / "config.json", _ModelConfig, CompressionError, f"{folder} holds no quantized model"
    )
    config = document.quantization_config
    if (config.quant_method, config.format) != (_METHOD, FORMAT):
        raise CompressionError(
            f"{folder} is quantized as {config.quant_method} {config.format}; only {_METHOD} {FORMAT} can be read."
        )
    by_target = {
        target: _settings_of(group, folder) for group in config.config_groups.values() for target in group.targets
    }
    state, tensors = _quantized_tensors(folder)
    by_path: dict[str, Grid] = {}
    # Not left to transformers 5.23, which unpacks all layers by the first group's bits.
    for path, packed_tensors in tensors.items():
        try:
            integers, grid = unpacked(packed_tensors, by_target.get(path) or by_target["Linear"])
            state[f"{path}.weight"] = dequantize(integers, grid).to(dtype)
        except Exception as error:  # whatever compressed-tensors and torch say to a damaged file
            raise CompressionError(f"{folder} holds {path}, which cannot be unpacked: {error!r}.") from error
        by_path[path] = Grid(grid.settings, grid.scale.to(dtype), grid.zero_point)
    model, tokenizer = load_model(str(folder), dtype, state)
    family = family_of(model)
    names = (
        str(ModuleName(index, projection))
        for index in range(len(list(model.get_submodule(family.layers).children())))
        for projection in family.projections
    )
    return model, tokenizer, Quantization({n: by_path[family.path(n)] for n in names if family.path(n) in by_path})


def load_base(
    name_or_folder: str, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Quantization | None]:
    """A model by name, as `nas_engine.models.load_model`; one that `save_quantized` wrote comes with its grids.

    Raises:
        CompressionError: as `load_quantized`.
        ModelError: nothing that loads is there.
    """
    if _says_quantized(Path(name_or_folder) / "config.json"):
        return load_quantized(name_or_folder, dtype)
    model, tokenizer = load_model(name_or_folder, dtype)
    return model, tokenizer, None


def _says_quantized(config_file: Path) -> bool:
    try:
        config = decoded(config_file.read_bytes(), CompressionError, str(config_file))
    except (OSError, CompressionError):  # no such model, or none at all, as whoever loads it says
        return False
    quantized = config.get("quantization_config") if isinstance(config, dict) else None
    return isinstance(quantized, dict) and quantized.get("quant_method") == _METHOD


@dataclass(frozen=True)
class _Weights:
    num_bits: int
    type: str
    symmetric: bool
    strategy: str
    group_size: int | None = None


@dataclass(frozen=True)
class _Group:
    targets: list[str]
    weights: _Weights
    input_activations: Any = None


@dataclass(frozen=True)
class _QuantizationConfig:
    quant_method: str
    format: str
    config_groups: dict[str, _Group]


@dataclass(frozen=True)
class _ModelConfig:
    """What a quantized model's ``config.json`` holds of this among other things."""

    quantization_config: _QuantizationConfig


def _settings_of(group: _Group, folder: Path) -> GridSettings:
    weights = group.weights
    if weights.type != "int" or weights.strategy != "group" or weights.group_size is None or group.input_activations:
        raise CompressionError(f"{folder} has a group that is no plain grid of integers in groups: {weights}.")
    return GridSettings(weights.num_bits, weights.group_size, weights.symmetric)


def _quantized_tensors(folder: Path) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Ordinary weights, and the tensors of every packed layer by its path and their names in it.

    Raises:
        CompressionError: a file cannot be read.
    """
    state: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            state |= load_file(file)
        except (OSError, SafetensorError) as error:
            raise CompressionError(f"{file} cannot be read: {error}.") from error
    found: dict[str, dict[str, Tensor]] = {
        key.removesuffix(".weight_packed"): {} for key in state if key.endswith(".weight_packed")
    }
    for key in list(state):
        path, _, name = key.rpartition(".")
        if path in found and name != "bias":
            found[path][name] = state.pop(key)
    return state, found


def _require_linear(module: nn.Module, path: str) -> None:
    elastic = isinstance(module, ElasticProjection) and not module.transposed
    if not elastic and not isinstance(module, nn.Linear):
        raise CompressionError(
            f"{path} is a {type(module).__name__}, and the {FORMAT} format holds linear layers alone; "
            "save this model unquantized."
        )


def _packing() -> tuple[Any, Any]:
    try:
        from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
    except ImportError as error:
        raise CompressionError(_INSTALL) from error
    return pack_to_int32, unpack_from_int32
