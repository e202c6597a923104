"""Evaluators by name: ours and those of other packages, through the entry-point group `nas_engine.evaluators`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from evaluators.protocol import Evaluator

GROUP = "nas_engine.evaluators"


def evaluator_names() -> list[str]:
    """The names of all installed evaluators, sorted."""
    return _names(GROUP)


def load_evaluator(name: str) -> Callable[..., Evaluator] | Evaluator:
    """What `name` stands for: a class to be called with its arguments, or an evaluator ready for use, such as a
    function made one by `cost_model`.

    Raises:
        ValueError: nothing installed has this name (the known ones are listed), two packages claim it, or it cannot be
            imported.
    """
    loaded: Callable[..., Evaluator] | Evaluator = loaded_entry_point(GROUP, "evaluator", name)
    return loaded


def loaded_entry_point(group: str, kind: str, name: str) -> Any:
    """What `name` stands for in an entry-point group whose entries are each a `kind`.

    Raises:
        ValueError: as `load_evaluator`.
    """
    points = list(entry_points(group=group, name=name))
    if not points:
        raise ValueError(
            f"no {kind} is named {name!r}; installed are {', '.join(_names(group)) or 'none'}. "
            f'A package adds its own by an entry point in the group "{group}".'
        )
    if len({point.value for point in points}) > 1:
        claims = ", ".join(sorted(f"{point.value} of {point.dist.name if point.dist else '?'}" for point in points))
        article = "an" if kind[0] in "aeiou" else "a"
        raise ValueError(f"several packages name {article} {kind} {name!r}: {claims}; uninstall all but one.")
    try:
        return points[0].load()
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"the {kind} {name!r} is registered as {points[0].value}, which cannot be imported: {error}."
        ) from error


def _names(group: str) -> list[str]:
    return sorted({point.name for point in entry_points(group=group)})
