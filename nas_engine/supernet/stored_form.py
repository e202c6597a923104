"""What of a sub-network would be stored on grids and with zeros, as cost models and files want to know it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evaluators import Operator
from nas_engine.compression.grid import Grid
from nas_engine.supernet.elastic_model import ElasticModel
from nas_engine.supernet.extraction import absent_layers, bypassed
from search_spaces import ModuleName


def as_stored(supernet: ElasticModel, operators: Sequence[Operator]) -> list[Operator]:
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
            linear, level = supernet.linear(module), supernet.compression_state[module]
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


def active_grids(supernet: ElasticModel) -> dict[str, Grid]:
    """The grids of the active sub-network's weights, by the paths of their layers in the extracted model."""
    absent = {layer.index for layer in absent_layers(supernet.layers)}
    present = [layer.index for layer in supernet.layers if layer.index not in absent]
    grids = {}
    for new, old in enumerate(present):
        left_out = tuple(f"{bypass.module}." for _, bypass, _ in bypassed(supernet.layers[old]))
        for projection, path in supernet.family.projections.items():
            grid = supernet.linear(str(ModuleName(old, projection))).active_grid
            if grid is not None and not f"{path}.".startswith(left_out):
                grids[supernet.family.path(str(ModuleName(new, projection)))] = grid
    return grids
