"""Whether a space keeps to the limits of where it will run, and what a template lost to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from search_spaces.choice import Choice
from search_spaces.errors import SpaceError
from search_spaces.module_name import ModuleName
from search_spaces.shape import ModelShape

_WHOLE = {"layer_skip": 1, "density": 1.0, "weight_bits": 16}  # values that change nothing


def require_within(choices: Iterable[Choice], shape: ModelShape) -> None:
    """Check that every value of `choices` is one that the target of `shape.limits` can run.

    Raises:
        SpaceError: one is not; which, why, and what to give instead.
    """
    choices = list(choices)
    for choice in choices:
        for value in choice.values:
            _require_value(choice, value, shape)
    for dimension in shape.limits.alike:
        _require_alike([c for c in choices if c.dimension == dimension], dimension, shape)
    for group in shape.limits.fused:
        _require_fused([c for c in choices if c.dimension == "weight_bits"], group, shape)


def _require_value(choice: Choice, value: float, shape: ModelShape) -> None:
    limits, layer = shape.limits, choice.layer
    full = {"mlp_width": shape.intermediate_sizes, "attention_heads": shape.heads}.get(choice.dimension)
    if value == (full[layer] if full else _WHOLE.get(choice.dimension, value)):
        return
    if choice.dimension in limits.whole:
        raise SpaceError(f"{choice.name} is {value}, and {limits.target} {limits.whole[choice.dimension]}.")
    if choice.dimension == "mlp_width" and value % limits.multiple_of:
        near = limits.width(value, shape.intermediate_sizes[layer], 1)
        raise SpaceError(
            f"{choice.name} is {value}; {limits.target} wants multiples of {limits.multiple_of}, such as {near}."
        )
    if choice.dimension == "attention_heads" and limits.heads is not None and value not in limits.heads:
        raise SpaceError(
            f"{choice.name} is {value}; {limits.target} can run {', '.join(map(str, limits.heads))} heads of it."
        )
    if choice.dimension == "layer_skip" and (kept := sorted(limits.kept & set(choice.modules))):
        raise SpaceError(f"{choice.name} may be 0, and {limits.target} needs {kept[0]}; leave that layer out of it.")


def _require_alike(choices: list[Choice], dimension: str, shape: ModelShape) -> None:
    """One gene moves all layers, or none moves any."""
    limits = shape.limits
    varied = [c for c in choices if len(c) > 1 or not _is_whole(c, shape)]
    if varied and (len(varied) > 1 or len(varied[0].layers) < shape.layers):
        raise SpaceError(
            f"{varied[0].name} moves {len(varied[0].layers)} of {shape.layers} layers, and {limits.target} builds all "
            f"layers of this model with the same {dimension.replace('_', ' ')}: layers_per_gene={shape.layers}."
        )


def _is_whole(choice: Choice, shape: ModelShape) -> bool:
    full = shape.intermediate_sizes if choice.dimension == "mlp_width" else shape.heads
    return choice.values[-1] == full[choice.layer]


def _require_fused(choices: list[Choice], group: tuple[str, ...], shape: ModelShape) -> None:
    owners = {module: choice.name for choice in choices for module in choice.modules}
    for layer in range(shape.layers):
        names = {owners.get(str(ModuleName(layer, name))) for name in shape.modules(group)}
        if len(names) > 1:
            raise SpaceError(
                f"layer {layer} gives {', '.join(group)} bits of their own, and {shape.limits.target} stores them in "
                f"the same: let them share a gene, share=({', '.join(map(repr, shape.limits.fused))}, …)."
            )


def changed_choices(wide: Iterable[Choice], narrow: Iterable[Choice]) -> Iterator[str]:
    """What became of the choices of a template, a phrase a dimension."""
    by_dimension: dict[str, tuple[dict[str, Choice], dict[str, Choice]]] = {}
    for side, choices in enumerate((wide, narrow)):
        for choice in choices:
            by_dimension.setdefault(choice.dimension, ({}, {}))[side][choice.name] = choice
    for dimension, (before, after) in by_dimension.items():
        if before == after:
            continue
        changed = next(name for name in (*before, *after) if before.get(name) != after.get(name))
        old, new = (side[changed].values if changed in side else () for side in (before, after))
        words = dimension.replace("_", " ")
        if old and new:
            yield f"{words} {_listed(new)} where {changed} was {_listed(old)}"
        elif len(after) < len(before):
            yield f"{words} by {len(after)} genes where there were {len(before)}"
        else:
            yield f"{words} by other genes, such as {changed}"


def _listed(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
