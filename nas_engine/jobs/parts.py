"""The parts of a job that its settings name: dimensions of its space, evaluators, and where it measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

from evaluators import Evaluator, EvaluatorError, evaluator_names, load_evaluator, require_evaluator
from nas_engine.errors import SettingsError
from nas_engine.execution.executor import Workplace
from nas_engine.execution.pool import WorkerPool
from nas_engine.execution.ray_executor import RayCluster
from nas_engine.named import Named, made
from search_spaces import (
    SpaceTemplate,
    attention_heads,
    experts,
    layer_skip,
    lora_rank,
    mlp_width,
    sparsity,
    weight_bits,
)

DIMENSIONS: Mapping[str, Callable[..., SpaceTemplate]] = {
    "lora_rank": lora_rank,
    "mlp_width": mlp_width,
    "attention_heads": attention_heads,
    "experts": experts,
    "layer_skip": layer_skip,
    "weight_bits": weight_bits,
    "sparsity": sparsity,
}
_UNDECORATED = " A function that measures is made an evaluator by evaluators.cost_model or evaluators.model_metric."
WORKPLACES: Mapping[str, Callable[..., Workplace]] = {"pool": WorkerPool, "ray": RayCluster}


def space_of(entries: Sequence[Named]) -> SpaceTemplate:
    """The dimensions that `entries` name, joined.

    Raises:
        SettingsError: one is unknown, refuses its arguments or is no dimension.
    """
    found = []
    for i, entry in enumerate(entries):
        dimension = made(entry, ("space", i), DIMENSIONS.__getitem__, DIMENSIONS)
        if not isinstance(dimension, SpaceTemplate):
            raise SettingsError(f"{entry!r} gives {type(dimension).__name__}, not a space's dimension.", ("space", i))
        found.append(dimension)
    return reduce(add, found)


def evaluators_of(entries: Sequence[Named]) -> list[Evaluator]:
    """The evaluators that `entries` name.

    Raises:
        SettingsError: one is unknown, refuses its arguments or is no evaluator.
    """
    found: list[Evaluator] = []
    for i, entry in enumerate(entries):
        evaluator = made(entry, ("evaluators", i), _installed, evaluator_names(), _UNDECORATED)
        try:
            require_evaluator(evaluator)
        except EvaluatorError as error:
            raise SettingsError(f"{entry!r} gives no evaluator: {error}", ("evaluators", i)) from None
        found.append(evaluator)
    return found


def workplace_of(entry: Named) -> Workplace:
    """Where sub-networks are measured.

    Raises:
        SettingsError: unknown, or it refuses its arguments.
    """
    workplace: Workplace = made(entry, ("executor",), WORKPLACES.__getitem__, WORKPLACES)
    return workplace


def _installed(name: str) -> Any:
    if name not in evaluator_names():
        raise LookupError(name)
    return load_evaluator(name)
