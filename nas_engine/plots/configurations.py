"""A configuration by depth: what a sub-network's genes make of each layer, as rows of numbers and in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from nas_engine.plots.layers import kind_of, layers_of
from search_spaces import Choice, Configuration, ModuleName, SearchSpace, Value

_BLOCKS = {
    "attention": {"attention", "q", "k", "v", "o", "qkv"},
    "mlp": {"mlp", "gate", "up", "down", "gate_up", "experts"},
}
_BLOCK_NAMES = {"attention": "attention", "mlp": "MLP"}
_NAMES = {
    "mlp_width": ("MLP width", "channels"),
    "attention_heads": ("attention heads", ""),
    "experts": ("experts", ""),
    "lora_rank": ("adapter rank", ""),
    "weight_bits": ("weights", "bits"),
    "density": ("weights kept", "fraction"),
}
_KEPT = "layer_skip"


@dataclass(frozen=True)
class GeneKind:
    """What genes of one kind say, layer by layer.

    Args:
        label: what it is, such as ``MLP width``.
        unit: of its values.
        most: the largest value that any layer may have.
        choices: one a layer, or None where the layer has none; two layers may share one.
        keeps: the gene that leaves out the block that the kind is about, a layer each, or None.
    """

    label: str
    unit: str
    most: Value
    choices: tuple[Choice | None, ...]
    keeps: tuple[Choice | None, ...]

    def values(self, configuration: Configuration) -> list[Value | None]:
        """The value in each layer: 0 where its block is left out, None where the layer has no such gene."""
        return [
            0 if keep and not configuration[keep.name] else _value(choice, configuration)
            for choice, keep in zip(self.choices, self.keeps, strict=True)
        ]


def kinds_of(space: SearchSpace) -> tuple[GeneKind, ...]:
    """What varies in `space`, in the order of its genes. Blocks that may be left out are a kind of their own only where
    no other kind would show it.
    """
    choices = [choice for choice in space.choices if choice.modules]
    layers = 1 + max((layer for choice in choices for layer in layers_of(choice)), default=-1)
    varying = {kind_of(gene) for gene in space.genes}
    by_kind: dict[str, list[Choice]] = {}
    for choice in choices:
        if kind_of(choice) in varying:
            by_kind.setdefault(kind_of(choice), []).append(choice)
    keeps = {
        block: _by_layer([gene for gene in space.genes if gene.dimension == _KEPT and _block(gene) == block], layers)
        for block in _BLOCKS
    }
    told = {_block(found[0]) for found in by_kind.values() if found[0].dimension != _KEPT}
    return tuple(
        _kind(name, found, layers, keeps, by_kind)
        for name, found in by_kind.items()
        if found[0].dimension != _KEPT or _block(found[0]) not in told
    )


def kind_labels(space: SearchSpace) -> dict[str, str]:
    """What the kinds of `layer_table` are called, by their names there."""
    kinds = {kind_of(gene): gene for gene in space.genes}
    dimensions = [gene.dimension for gene in kinds.values()]
    return {name: _label(gene, dimensions.count(gene.dimension) > 1) for name, gene in kinds.items()}


def fixed_in(space: SearchSpace) -> list[str]:
    """What all sub-networks have in common, in words: ``adapter rank 32``."""
    varying = {kind_of(gene) for gene in space.genes}
    told = {(_label(choice, False), choice.values[0]) for choice in space.fixed if kind_of(choice) not in varying}
    return [f"{label} {value}" for label, value in sorted(told)]


def configuration_lines(configuration: Configuration, kinds: Sequence[GeneKind]) -> list[str]:
    """A line a kind: its values from the first layer to the last, ``MLP width 1536 ×4, 448, – ×2`` (– is left out)."""
    return [f"{kind.label} {', '.join(_runs(kind.values(configuration)))}" for kind in kinds]


def _runs(values: Sequence[Value | None]) -> Iterator[str]:
    for value, run in groupby(values):
        count = len(list(run))
        text = "–" if not value else f"{value:g}"
        yield text if count == 1 else f"{text} ×{count}"


def _kind(
    name: str,
    choices: Sequence[Choice],
    layers: int,
    keeps: Mapping[str, Sequence[Choice | None]],
    by_kind: Mapping[str, Sequence[Choice]],
) -> GeneKind:
    dimension, block = choices[0].dimension, _block(choices[0])
    alone = sum(found[0].dimension == dimension for found in by_kind.values()) == 1
    none: Sequence[Choice | None] = [None] * layers
    return GeneKind(
        _label(choices[0], not alone),
        _NAMES.get(dimension, ("", ""))[1],
        max(choice.values[-1] for choice in choices),
        tuple(_by_layer(choices, layers)),
        tuple(none if dimension == _KEPT else keeps.get(block or "", none)),
    )


def _label(choice: Choice, with_modules: bool) -> str:
    name = kind_of(choice)
    if choice.dimension == _KEPT:
        return f"{_BLOCK_NAMES.get(_block(choice) or '', name)} kept"
    if choice.dimension not in _NAMES:
        return name
    modules = re.sub(r"[._]+", " ", name.rpartition(".")[0]) if with_modules else ""
    return f"{_NAMES[choice.dimension][0]}{modules and f' of {modules}'}"


def _block(choice: Choice) -> str | None:
    """The block that all of a choice's modules are in; None of several."""
    modules = {ModuleName.parse(module).name for module in choice.modules}
    return next((block for block, names in _BLOCKS.items() if modules <= names), None)


def _by_layer(choices: Sequence[Choice], layers: int) -> list[Choice | None]:
    found: list[Choice | None] = [None] * layers
    for choice in choices:
        for layer in layers_of(choice):
            found[layer] = choice
    return found


def _value(choice: Choice | None, configuration: Configuration) -> Value | None:
    if choice is None:
        return None
    return choice.values[0] if len(choice) == 1 else configuration[choice.name]
