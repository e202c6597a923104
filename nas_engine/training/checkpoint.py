"""A training run on disk: one safetensors file, replaced whole, with settings and losses in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from evaluators.documents import parsed
from evaluators.whole_file import replacing
from nas_engine.errors import CheckpointError

FILE = "training.safetensors"
_FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands.

    Args:
        losses: the loss of every visit to a sub-network, by step.
        settings: what the run was started with; another run's checkpoint is refused.
        state: the super-network's `state()`.
        optimizer: AdamW's moments, by the parameter's position and the moment's name.
        refitted: whether the run is over, its narrower widths fitted to the trained network.
    """

    losses: list[list[float]]
    settings: Mapping[str, Any]
    state: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    refitted: bool


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint in `folder` at once: a kill leaves either the old one or the new one."""
    tensors = {f"state/{name}": tensor.contiguous() for name, tensor in checkpoint.state.items()}
    tensors |= {f"optimizer/{name}": tensor.contiguous() for name, tensor in checkpoint.optimizer.items()}
    metadata = {
        "losses": json.dumps(checkpoint.losses),
        "settings": json.dumps({"format": _FORMAT, **checkpoint.settings}),
        "refitted": json.dumps(checkpoint.refitted),
    }
    with replacing(folder / FILE) as file:
        save_file(tensors, file, metadata=metadata)


def read_checkpoint(folder: Path, settings: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint in `folder`, or None where there is none.

    Raises:
        CheckpointError: it cannot be read, or belongs to a run with other settings (the difference is named).
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); delete it to train anew.") from error
    refusal = f"{path} is no checkpoint; delete it to train anew"
    saved = parsed(metadata.get("settings", ""), dict[str, Any], CheckpointError, refusal)
    ours = {"format": _FORMAT, **settings}
    differing = [f"{k}: {saved.get(k)!r} there, {v!r} here" for k, v in ours.items() if saved.get(k) != v]
    if differing:
        raise CheckpointError(
            f"{path} belongs to a run with other settings ({'; '.join(differing)}); use another folder, or delete it."
        )
    return Checkpoint(
        parsed(metadata.get("losses", ""), list[list[float]], CheckpointError, refusal),
        saved,
        _part(tensors, "state/"),
        _part(tensors, "optimizer/"),
        parsed(metadata.get("refitted", ""), bool, CheckpointError, refusal),
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{index}/{name}": value for index, entry in state.items() for name, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Take over what `optimizer_tensors` gave.

    Raises:
        CheckpointError: they belong to other parameters.
    """
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shapes = {f"{i}/{name}": p.shape for i, p in enumerate(parameters) for name in ("exp_avg", "exp_avg_sq")}
    shapes |= {f"{i}/step": torch.Size() for i in range(len(parameters))}
    for key, tensor in tensors.items():
        index, _, name = key.partition("/")
        if tensor.shape != shapes.get(key) or not tensor.is_floating_point():
            raise CheckpointError(f"the optimizer's {key} has the shape {tuple(tensor.shape)}, as in another run.")
        if f"{index}/step" not in tensors or f"{index}/exp_avg" not in tensors or f"{index}/exp_avg_sq" not in tensors:
            raise CheckpointError(f"the optimizer's state of parameter {index} is not whole.")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
