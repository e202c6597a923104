"""What must hold between a quantized base, the space and the adapters on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from nas_engine.compression.database import LayerDatabase
from nas_engine.compression.quantization import Quantization, require_unquantized
from nas_engine.compression.sparsification import matrix_of
from nas_engine.errors import CompressionError
from nas_engine.families.descriptions import family_of
from nas_engine.families.family import attention_sizes
from nas_engine.supernet.dimensions import HEADS, WIDTH
from search_spaces import SearchSpace

if TYPE_CHECKING:
    from nas_engine.supernet.elastic import ElasticLinear


def prepare_base(
    model: PreTrainedModel,
    space: SearchSpace,
    ranks: Mapping[str, int],
    adapter_mode: str,
    quantization: Quantization | None,
    database: LayerDatabase | None,
) -> None:
    """Check that base, space and adapter mode go together; put weights under adapters on a grid back to unrounded.

    Args:
        model: not yet elastic.
        space: bound to it.
        ranks: the largest rank of each elastic module, 0 without an adapter.
        adapter_mode: of the adapters.
        quantization: the grids of the model's weights, if it has any.
        database: the versions of its projections, if they vary.

    Raises:
        CompressionError: they do not; what to change is said.
    """
    require_unquantized(model)
    if quantization is not None and database is not None:
        raise CompressionError("a quantized base has no other versions; give the database or the quantization.")
    if adapter_mode == "quantized" and quantization is None and database is None:
        raise CompressionError(
            "adapter_mode='quantized' needs the grids of a quantized base; pass quantization=quantize_model(…)."
        )
    if adapter_mode == "masked" and quantization is not None:
        raise CompressionError(
            "adapter_mode='masked' would take a quantized base off its grids; use adapter_mode='quantized', or an "
            "unquantized base."
        )
    if database is not None:
        require_whole_groups(model, space, dict.fromkeys(database.modules, database.group_size))
    if quantization is None:
        return
    sizes = {name: grid.settings.group_size for name, grid in quantization.grids.items()}
    require_whole_groups(model, space, sizes)
    if adapter_mode == "quantized":
        family = family_of(model)
        for module in (m for m, rank in ranks.items() if rank and m in quantization.unrounded):
            matrix_of(model.get_submodule(family.path(module))).copy_(quantization.unrounded[module])


def require_on_grids(quantization: Quantization | None, adapter_mode: str) -> Quantization:
    """The grids on which a base is held as integers.

    Raises:
        CompressionError: it is on none, or its adapters need the weights that were rounded onto them.
    """
    if quantization is None:
        raise CompressionError(
            "only a quantized base is held as integers; give one that nas_engine.compression.quantize_model changed, "
            "with quantization=…, or a folder that save_quantized wrote."
        )
    if adapter_mode != "plain":
        raise CompressionError(
            f"adapter_mode={adapter_mode!r} trains on weights that are not rounded yet, which are no integers; pack a "
            "base under adapter_mode='plain'."
        )
    return quantization


def pack_weights(linears: Mapping[str, ElasticLinear], quantization: Quantization) -> Quantization:
    """Let layers on a grid hold their integers, in place; `quantization` without the weights that were rounded.

    Raises:
        CompressionError: a weight is off its grid; layers before it are packed.
    """
    for name, linear in linears.items():
        if name in quantization.grids:
            linear.pack(name)
    return replace(quantization, unrounded={})


def require_whole_groups(model: PreTrainedModel, space: SearchSpace, group_sizes: Mapping[str, int]) -> None:
    """Check that inputs are cut by whole groups only: a part of one would have the scale of weights that are gone.

    Args:
        model: with the sizes of its heads.
        space: bound to it.
        group_sizes: inputs that share a scale, by projection.

    Raises:
        CompressionError: a width or a number of heads cuts a group.
    """
    head_size = attention_sizes(model.config)[2]
    readers = {WIDTH: ("down", 1), HEADS: ("o", head_size)}
    for choice in space.choices:
        name, size = readers.get(choice.dimension, ("", 0))
        for module in choice.modules:
            group_size = group_sizes.get(module)
            if group_size is None or not module.endswith(f".{name}"):
                continue
            cut = [int(value) for value in choice.values if int(value) * size % group_size]
            if cut:
                raise CompressionError(
                    f"{choice.name} may be {cut[0]}, which cuts a group of {group_size} inputs of {module}; give sizes "
                    f"in whole groups, as mlp_width(..., multiple_of={group_size}) does."
                )
