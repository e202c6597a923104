"""Models written while they are merged: a projection's weight is made when its file is written, and let go after it.

What is written is what `extract` would have made; a second copy of the model is never held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nas_engine.errors import ExportError
from nas_engine.progress import without_bars
from nas_engine.supernet.elastic import ElasticLinear
from nas_engine.supernet.leaving import merged_layer

SHARD_BYTES = 10**9  # of merged weights that are held at a time, or one weight where that is larger


class _Later(Tensor):
    """A weight's shape and type; `contiguous`, which transformers asks for before it writes, makes its numbers."""

    make: Callable[[], Tensor]

    @staticmethod
    def of(like: Tensor, make: Callable[[], Tensor]) -> _Later:
        """A tensor like one without numbers."""
        later: _Later = torch.Tensor._make_subclass(_Later, like.detach())
        later.make = make
        return later

    def contiguous(self, *args: Any, **kwargs: Any) -> Tensor:
        """The numbers."""
        return self.make().contiguous()


class Outlines:
    """Stands in for elastic layers by plain ones without weights, and knows whose they are."""

    def __init__(self) -> None:
        self._linears: dict[int, tuple[nn.Module, ElasticLinear]] = {}

    def __call__(self, linear: ElasticLinear) -> nn.Module:
        """A plain layer of the active size of `linear`, without weights.

        Raises:
            ExportError: its adapter does not merge without loss.
        """
        if not linear.merges:
            merged_layer(linear)  # says why
        outline = linear.outline()
        self._linears[id(outline)] = outline, linear
        return outline

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write `model`, in which outlines stand; they are merged file by file.

        Raises:
            ExportError: a weight is not finite (its path is named).
        """
        weights: dict[str, Tensor] = dict(model.state_dict())
        for path, module in model.named_modules():
            if id(module) in self._linears:
                linear = self._linears[id(module)][1]
                weights[f"{path}.weight"] = _Later.of(module.weight, _merged(path, linear))
                if linear.active_bias is not None:
                    weights[f"{path}.bias"] = linear.active_bias.detach()
        save_sharded(model, folder, weights)


def save_sharded(model: PreTrainedModel, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write `model` with other weights than its own, in files of which one at a time is in memory."""
    with without_bars():
        model.save_pretrained(folder, state_dict=dict(weights), max_shard_size=SHARD_BYTES)


def later(like: Tensor, make: Callable[[], Tensor]) -> Tensor:
    """A weight for `save_sharded` of the shape and type of `like`, made when it is written."""
    return _Later.of(torch.empty_like(like, device="meta"), make)


def _merged(path: str, linear: ElasticLinear) -> Callable[[], Tensor]:
    def make() -> Tensor:
        try:
            weight: Tensor = merged_layer(linear).weight
        except ExportError as error:
            raise ExportError(f"{path} cannot be merged: {error}") from error
        return weight.detach()

    return make
