"""What must hold between a quantized base, the space and the adapters on it, and what its active part is stored as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from evaluators import Operator
from nas_engine.compression.database import LayerDatabase
from nas_engine.compression.grid import Grid
from nas_engine.compression.quantization import Quantization, require_unquantized
from nas_engine.compression.sparsification import matrix_of
from nas_engine.errors import CompressionError
from nas_engine.families.family import attention_sizes, family_of
from nas_engine.supernet.dimensions import HEADS, WIDTH
from nas_engine.supernet.extraction import absent_layers, bypassed
from search_spaces import SearchSpace

if TYPE_CHECKING:
    from nas_engine.supernet.supernetwork import SuperNetwork


def prepare_base(
    model: PreTrainedModel,
    space: SearchSpace,
    ranks: Mapping[str, int],
    combination: str,
    quantization: Quantization | None,
    database: LayerDatabase | None,
) -> None:
    """Check that base, space and combination go together; put weights under adapters on a grid back to unrounded.

    Args:
        model: not yet elastic.
        space: bound to it.
        ranks: the largest rank of each elastic module, 0 without an adapter.
        combination: of the adapters.
        quantization: the grids of the model's weights, if it has any.
        database: the versions of its projections, if they vary.

    Raises:
        CompressionError: they do not; what to change is said.
    """
    require_unquantized(model)
    if quantization is not None and database is not None:
        raise CompressionError("a quantized base has no other versions; give the database or the quantization.")
    if combination == "quantized" and quantization is None and database is None:
        raise CompressionError(
            "combination='quantized' needs the grids of a quantized base; pass quantization=quantize_model(…)."
        )
    if combination == "masked" and quantization is not None:
        raise CompressionError(
            "combination='masked' would take a quantized base off its grids; use combination='quantized', or an "
            "unquantized base."
        )
    if database is not None:
        _require_whole_groups(model, space, dict.fromkeys(database.modules, database.group_size))
    if quantization is None:
        return
    sizes = {name: grid.settings.group_size for name, grid in quantization.grids.items()}
    _require_whole_groups(model, space, sizes)
    if combination == "quantized":
        family = family_of(model)
        for module in (m for m, rank in ranks.items() if rank and m in quantization.unrounded):
            matrix_of(model.get_submodule(family.path(module))).copy_(quantization.unrounded[module])


def _require_whole_groups(model: PreTrainedModel, space: SearchSpace, group_sizes: Mapping[str, int]) -> None:
    """Inputs are cut by whole groups only: a part of one would have the scale of weights that are gone."""
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


def as_stored(supernet: SuperNetwork, operators: Sequence[Operator]) -> list[Operator]:
    """`operators` of the active sub-network with the bits and the zeros that their weights have.

    The adapter of a fused layer has one first factor, listed for the first projection that the layer holds.
    """
    family = supernet.family
    module_of = {name: module for module in family.projections for name in family.held(module)}
    stored = []
    for operator in operators:
        where, _, name = operator.name.rpartition(".")
        if name in module_of:
            module = f"{where}.{module_of[name]}"
            linear, level = supernet.linear(module), supernet.levels[module]
            grid = linear.grid
            bits = operator.weight_bits if grid is None else grid.settings.bits
            operator = replace(
                operator,
                weight_bits=bits if level is None else level.bits,
                sparsity=linear.sparsity,
                scale_bytes=0 if grid is None else grid.scale_bytes(operator.n, operator.k // grid.settings.group_size),
            )
        elif name == "lora_A":
            projection = where.rpartition(".")[2]
            if family.held(module_of[projection])[0] != projection:
                continue
        stored.append(operator)
    return stored


def active_grids(supernet: SuperNetwork) -> dict[str, Grid]:
    """The grids of the active sub-network's weights, by the paths of their layers in the extracted model."""
    absent = {layer.index for layer in absent_layers(supernet.layers)}
    present = [layer.index for layer in supernet.layers if layer.index not in absent]
    grids = {}
    for new, old in enumerate(present):
        left_out = tuple(f"{bypass.module}." for _, bypass, _ in bypassed(supernet.layers[old]))
        for projection, path in supernet.family.projections.items():
            grid = supernet.linear(f"layers.{old}.{projection}").active_grid
            if grid is not None and not f"{path}.".startswith(left_out):
                grids[supernet.family.path(f"layers.{new}.{projection}")] = grid
    return grids
