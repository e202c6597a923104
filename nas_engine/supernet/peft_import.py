"""A LoRA checkpoint that PEFT trained as the start of a super-adapter."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from nas_engine.errors import CheckpointError
from nas_engine.supernet.elastic import ElasticLinear
from nas_engine.supernet.elastic_model import ElasticModel
from nas_engine.supernet.layer import inverse

if TYPE_CHECKING:
    from peft import LoraConfig


# What is understood below, and what says nothing about what an adapter computes.
_UNDERSTOOD = {
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights", "modules_to_save"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out", "lora_dropout"),
    *("base_model_name_or_path", "revision", "peft_type", "task_type", "inference_mode", "auto_mapping"),
    *("peft_version", "runtime_config", "ensure_weight_tying", "eva_config"),
}
_STARTS = (True, False, "gaussian", "orthogonal", "eva")  # which leave the base as it is
_KEY = re.compile(r"base_model\.model\.(?P<path>.+)\.lora_(?P<side>[AB])\.weight")


@torch.no_grad()
def load_adapter(supernet: ElasticModel, folder: Path) -> None:
    """Take over the adapter in `folder`; see `SuperNetwork.load_adapter`.

    Raises:
        CheckpointError: it is no LoRA checkpoint that this super-network can express.
    """
    config, tensors = _read(folder)
    modules = {supernet.family.path(name): name for name, linear in supernet.elastic_linears.items() if linear.rank}
    pairs: dict[str, dict[str, Tensor]] = {}
    heads: dict[str, dict[str, Tensor]] = {}
    for path, head in supernet.head.items():
        prefix = f"base_model.model.{path}."
        saved = {key.removeprefix(prefix): tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}
        shapes = {name: tensor.shape for name, tensor in head.state_dict().items()}
        if saved and {name: tensor.shape for name, tensor in saved.items()} != shapes:
            raise CheckpointError(f"{folder} holds a {path} of another task.")
        heads[path] = saved
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise CheckpointError(f"{folder} holds {key}, which is no plain LoRA weight; retrain without it.")
        if match["path"] not in modules:
            raise CheckpointError(
                f"{folder} adapts {match['path']}, which has no adapter in this super-network; "
                "add its projection to the targets of lora_rank(...)."
            )
        pairs.setdefault(match["path"], {})[match["side"]] = tensor.float()
    factors = {}
    for path, pair in pairs.items():
        name = modules[path]
        linear = supernet.elastic_linears[name]
        _require_fitting(linear, name, pair, folder)
        scale = _scale(config, path, len(pair["A"])) / linear.scaling
        factors[path] = _principal(pair["A"], pair["B"] * scale)
    # All of it fits; until here nothing was changed.
    for path, saved in heads.items():
        if saved:
            supernet.head[path].load_state_dict(saved)
    for path in modules.keys() - pairs.keys():  # which the checkpoint leaves as the base has them
        without = supernet.elastic_linears[modules[path]].lora_B
        assert without is not None
        without.zero_()
    for path, (lora_A, lora_B) in factors.items():
        name = modules[path]
        linear = supernet.elastic_linears[name]
        lora_A, lora_B = lora_A.to(linear.weight.device), lora_B.to(linear.weight.device)
        # The checkpoint's channels are in the original order; the inverse of the way back is the way here.
        _fill(
            linear,
            lora_A[:, inverse(supernet.original_inputs(name))],
            lora_B[inverse(supernet.original_outputs(name))],
        )


def _read(folder: Path) -> tuple[LoraConfig, dict[str, Tensor]]:
    from peft import LoraConfig, PeftConfig  # takes a second to import

    try:
        described = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        if not isinstance(described, dict):
            raise ValueError("its adapter_config.json is no object")
        config = PeftConfig.from_pretrained(str(folder))
        tensors = load_file(folder / "adapter_model.safetensors")
    except Exception as error:  # whatever PEFT says to a broken file
        raise CheckpointError(f"{folder} holds no PEFT adapter: {error!r}") from error
    if not isinstance(config, LoraConfig):
        raise CheckpointError(f"{folder} holds a {config.peft_type} adapter; only LoRA can start a super-adapter.")
    unknown = [name for name, value in described.items() if value and not hasattr(config, name)]
    if unknown:
        raise CheckpointError(
            f"{folder} has {unknown[0]}={described[unknown[0]]!r}, which this version of PEFT does not know; "
            "update peft."
        )
    _require_plain_lora(config, folder)
    _require_scales(config, folder)
    return config, tensors


def _require_plain_lora(config: LoraConfig, folder: Path) -> None:
    """PEFT's LoRA has variants that compute something else, or change the base; the next one is not known yet."""
    if config.use_dora:
        raise CheckpointError(f"{folder} was trained with DoRA, whose magnitudes a super-adapter does not have.")
    if config.init_lora_weights not in _STARTS:
        raise CheckpointError(
            f"{folder} began as {config.init_lora_weights!r}, which changes the base model too; save it with PEFT's "
            "path_initial_model_for_weight_conversion, or merge it: model.merge_and_unload()."
        )
    plain = type(config)()
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in _UNDERSTOOD and value and value != getattr(plain, field.name):
            raise CheckpointError(
                f"{folder} has {field.name}={value!r}, which is no plain LoRA; merge it instead, with PEFT's "
                "model.merge_and_unload()."
            )


def _require_scales(config: LoraConfig, folder: Path) -> None:
    patterns: Any = config.alpha_pattern or {}
    scales = [config.lora_alpha, *(patterns.values() if isinstance(patterns, dict) else ["no object"])]
    if not all(isinstance(s, int | float) and not isinstance(s, bool) and math.isfinite(s) for s in scales):
        raise CheckpointError(
            f"{folder} has lora_alpha={config.lora_alpha!r} and alpha_pattern={patterns!r}; give numbers."
        )
    try:
        for pattern in patterns:
            re.compile(pattern)
    except re.error as error:
        raise CheckpointError(f"{folder} has an alpha_pattern that is no regular expression: {error}.") from error


def _scale(config: LoraConfig, path: str, rank: int) -> float:
    """PEFT's factor of an adapter; its patterns match the end of a module's path."""
    patterns = config.alpha_pattern or {}
    alpha = next((value for key, value in patterns.items() if _ends(path, key)), config.lora_alpha)
    return float(alpha) / (math.sqrt(rank) if config.use_rslora else rank)


def _ends(path: str, pattern: str) -> bool:
    return re.fullmatch(rf"(.*\.)?({pattern})", path) is not None


def _principal(lora_A: Tensor, lora_B: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of the same product B A whose ranks are its singular directions, the largest first.

    Shapes (rank, inputs) and (outputs, rank), as given. The singular values are shared evenly, which keeps the two
    factors' gradients alike in size.
    """
    q_out, r_out = torch.linalg.qr(lora_B)
    q_in, r_in = torch.linalg.qr(lora_A.T)
    left, values, right = torch.linalg.svd(r_out @ r_in.T)
    root = values.sqrt()
    return (root[:, None] * right) @ q_in.T, (q_out @ left) * root


def _require_fitting(linear: ElasticLinear, name: str, pair: Mapping[str, Tensor], folder: Path) -> None:
    shapes = [tuple(tensor.shape) for tensor in pair.values()]
    if len(pair) < 2 or any(len(shape) != 2 for shape in shapes) or len(pair["A"]) != pair["B"].shape[1]:
        raise CheckpointError(f"{folder} has factors of the shapes {shapes} for {name}, which are no adapter.")
    if not all(tensor.isfinite().all() for tensor in pair.values()):
        raise CheckpointError(f"{folder} has numbers for {name} that are not finite.")
    lora_A, lora_B = pair["A"], pair["B"]
    sizes = (lora_B.shape[0], lora_A.shape[1])
    if sizes != (linear.out_features, linear.in_features):
        raise CheckpointError(
            f"{folder} adapts {name} as {sizes[0]} × {sizes[1]}, but it is {linear.out_features} × "
            f"{linear.in_features} here; the adapter belongs to another model."
        )
    if len(lora_A) > linear.rank:
        raise CheckpointError(
            f"{folder} has rank {len(lora_A)} for {name}, more than this super-network's largest of {linear.rank}; "
            f"give lora_rank(...) a rank of at least {len(lora_A)}."
        )


def _fill(linear: ElasticLinear, lora_A: Tensor, lora_B: Tensor) -> None:
    assert linear.lora_A is not None
    assert linear.lora_B is not None
    # Ranks beyond the checkpoint's keep their random start in A and add nothing while their B is zero.
    linear.lora_A[: len(lora_A)] = lora_A
    linear.lora_B.zero_()
    linear.lora_B[:, : len(lora_A)] = lora_B
