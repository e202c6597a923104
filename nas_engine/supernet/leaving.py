"""What an elastic layer becomes when it leaves: a layer of the active size, on tensors of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from nas_engine.errors import ExportError
from nas_engine.supernet.elastic import ElasticLinear


@torch.no_grad()
def merged_layer(linear: ElasticLinear) -> nn.Linear | Conv1D:
    """A plain layer of the active size and the original's class, its weight the `combined_weight`.

    Raises:
        ExportError: as `combined_weight`, or as `require_finite`.
    """
    require_finite(linear)
    layer = _plain(linear, linear.combined_weight())
    _require_finite("weight and adapter together", layer.weight)
    return layer


@torch.no_grad()
def unmerged_layer(linear: ElasticLinear) -> ElasticLinear:
    """A layer of the active size, the adapter beside the weight as it is in `linear`.

    Raises:
        ExportError: as `require_finite`.
    """
    require_finite(linear)
    layer = _alone(linear, linear.active_weight, linear.active_rank)
    layer.scaling = linear.scaling
    if linear.lora_A is not None:
        layer.lora_A = nn.Parameter(linear.active_lora_A.clone())
        layer.lora_B = nn.Parameter(linear.active_lora_B.clone())
    return layer


@torch.no_grad()
def renewed_layer(linear: ElasticLinear, generator: torch.Generator) -> ElasticLinear:
    """A layer of the active size that computes the same, its adapter taken into the frozen weight and begun anew.

    The new adapter has the largest rank at the same scale. On a sparse or quantized base the weight keeps its zeros and
    its grid, from which it is not rounded yet.

    Raises:
        ExportError: the adapter cannot become part of the weight (see `AdapterMode.absorbed`), or as `require_finite`.
    """
    if linear.lora_A is None:
        return unmerged_layer(linear)
    require_finite(linear)
    weight = linear.adapter_mode.absorbed(linear.active_weight, linear.update, linear.active_grid)
    layer = _alone(linear, weight, linear.rank, generator)
    layer.scaling = linear.scaling
    return layer


def deployed_layer(linear: ElasticLinear, merge: bool | None = None) -> nn.Module:
    """`merged`, or `unmerged` where merging would lose something and `merge` is None.

    Raises:
        ExportError: as either.
    """
    return unmerged_layer(linear) if merge is None and not linear.merges else merged_layer(linear)


def require_finite(linear: ElasticLinear) -> None:
    """Check that what is active can be computed with: nothing can be told from a merge with what cannot.

    Raises:
        ExportError: the weight, its bias or the adapter has values that are not finite.
    """
    _require_finite("its weight", linear.active_weight)
    if linear.active_bias is not None:
        _require_finite("its bias", linear.active_bias)
    if linear.lora_A is not None:
        _require_finite("its adapter", linear.active_lora_A)
        _require_finite("its adapter", linear.active_lora_B)


def _alone(linear: ElasticLinear, weight: Tensor, rank: int, generator: torch.Generator | None = None) -> ElasticLinear:
    """An elastic layer of the active size around `weight`, with a new adapter."""
    parts, grid, dropout = linear.active_parts, linear.active_grid, linear.dropout.p
    return ElasticLinear(_plain(linear, weight), rank, 1.0, dropout, generator, parts, linear.adapter_mode, grid)


def _plain(linear: ElasticLinear, weight: Tensor) -> nn.Linear | Conv1D:
    """A layer of the active size and the original's class with a copy of `weight` (active_out, active_in)."""
    layer = linear.outline()
    oriented = weight.T if linear.transposed else weight
    layer.weight = nn.Parameter(oriented.clone(memory_format=torch.contiguous_format))
    if linear.active_bias is not None:
        layer.bias = nn.Parameter(linear.active_bias.clone())
    return layer


def _require_finite(what: str, tensor: Tensor) -> None:
    if not tensor.isfinite().all():
        raise ExportError(
            f"{what} has {int((~tensor.isfinite()).sum())} of {tensor.numel()} numbers that are not finite, as a "
            "training that diverged leaves them; go on from an earlier state, or train anew with a lower learning_rate."
        )
