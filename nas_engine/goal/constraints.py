"""Constraints on objectives, read from text: what a sub-network must keep to be feasible."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nas_engine.drivers.driver import Objectives, Violations
from nas_engine.errors import SearchError
from nas_engine.magnitude import LARGEST

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_REFERENCE = r"reference(?:\.(?P<other>\w+))?"
_BOUND = re.compile(rf"(?:(?P<factor>{_NUMBER})\s*\*\s*)?{_REFERENCE}(?:\s*(?P<sign>[-+])\s*(?P<offset>{_NUMBER}))?")
_CONSTRAINT = re.compile(r"(?P<name>\w+)\s*(?P<sense><=|>=)\s*(?P<bound>.+)")
_TINY = 1e-9  # bounds below it set no scale of their own
_HELP = (
    'Write an objective, <= or >=, and a number or a multiple of the largest sub-network\'s value: "accuracy >= 0.5", '
    '"latency <= 0.7 * reference", "accuracy >= reference - 0.01", "latency <= 0.5 * reference.energy".'
)


@dataclass(frozen=True)
class Constraint:
    """``name <= factor * reference + offset``, or ``>=``.

    Args:
        text: as it was written.
        name: of the evaluator whose value is bounded.
        at_most: whether the bound is an upper one.
        offset: the bound, or what is added to the reference's part of it.
        factor: of the reference's value; 0 where the bound is a number.
        reference: evaluator whose value for the largest sub-network counts.
    """

    text: str
    name: str
    at_most: bool
    offset: float
    factor: float = 0.0
    reference: str = ""


def parse_constraints(texts: Sequence[str], names: Sequence[str]) -> tuple[Constraint, ...]:
    """Read constraints, or a single text.

    Raises:
        SearchError: as `parse_constraint`; it knows which of them is wrong.
    """
    found = []
    for i, text in enumerate([texts] if isinstance(texts, str) else texts):
        try:
            found.append(parse_constraint(text, names))
        except SearchError as error:
            raise SearchError(str(error), ("constraints", i)) from None
    return tuple(found)


def parse_constraint(text: str, names: Sequence[str]) -> Constraint:
    """Read a constraint.

    Args:
        text: such as ``latency <= 0.7 * reference``; `reference` is the largest sub-network's value of the same
        objective,
            ``reference.other`` that of another.
        names: of the evaluators.

    Raises:
        SearchError: the text cannot be read, or names no evaluator.
    """
    read = _CONSTRAINT.fullmatch(text.strip())
    if read is None:
        raise SearchError(f"the constraint {text!r} cannot be read. {_HELP}")
    name, at_most, bound = read["name"], read["sense"] == "<=", read["bound"]
    if name not in names:
        raise SearchError(f"the constraint {text!r} is on {name!r}; the evaluators are {', '.join(names)}.")
    if re.fullmatch(_NUMBER, bound):
        return Constraint(text, name, at_most, float(bound))
    part = _BOUND.fullmatch(bound)
    if part is None:
        raise SearchError(f"the bound of the constraint {text!r} cannot be read: {bound!r}. {_HELP}")
    reference = part["other"] or name
    if reference not in names:
        raise SearchError(f"the constraint {text!r} refers to {reference!r}; the evaluators are {', '.join(names)}.")
    offset = float(f"{part['sign']}1") * float(part["offset"]) if part["offset"] else 0.0
    return Constraint(text, name, at_most, offset, float(part["factor"] or 1.0), reference)


def bound_of(constraint: Constraint, reference: Mapping[str, float]) -> float:
    """What `constraint` allows.

    Args:
        constraint: of a search.
        reference: the largest sub-network's values by evaluator.
    """
    bound = constraint.offset
    if constraint.reference:
        bound += constraint.factor * reference[constraint.reference]
    return float(np.clip(bound, -LARGEST, LARGEST))


def violations(
    constraints: Sequence[Constraint], values: Mapping[str, Objectives], reference: Mapping[str, float]
) -> Violations:
    """By how much each constraint is missed, relative to its bound; 0 or less where it is met.

    Args:
        constraints: of the search.
        values: of some sub-networks by evaluator, each of shape (batch,), in the evaluators' own units.
        reference: the largest sub-network's.

    Returns:
        Shape (batch, constraints); NaN where a value or the reference is.
    """
    columns = []
    for constraint in constraints:
        bound = bound_of(constraint, reference)
        with np.errstate(over="ignore"):
            excess = values[constraint.name] - bound
            columns.append((excess if constraint.at_most else -excess) / (abs(bound) if abs(bound) > _TINY else 1.0))
    batch = len(next(iter(values.values())))
    return np.stack(columns, axis=1) if columns else np.empty((batch, 0))
