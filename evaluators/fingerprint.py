"""Telling one version of a user's function from another, so that a ledger does not mix their scores. Calls nothing."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any


def function_fingerprint(function: FunctionType) -> str:
    """16 hexadecimal digits that change with the source of `function`, and with the numbers, texts, lists and functions
    that it takes from its own module or an enclosing function.

    Other objects, files, and what imported functions do are not seen.
    """
    parts = list(_parts(function, set()))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _parts(function: FunctionType, seen: set[FunctionType]) -> Iterator[Any]:
    """The source of `function` and, by name, the plain values and functions it reads from around it."""
    if function in seen:
        return
    seen.add(function)
    yield _source(function)
    yield _plain(function.__defaults__), _plain(function.__kwdefaults__)
    for name, value in sorted(_surroundings(function).items()):
        if isinstance(value, FunctionType) and value.__module__ == function.__module__:
            yield [name, list(_parts(value, seen))]
        else:
            yield [name, _plain(value)]


def _source(function: FunctionType) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # typed into a console or made by exec
        return repr([(code.co_code, [c for c in code.co_consts if _plain(c)]) for code in _codes(function.__code__)])


def _surroundings(function: FunctionType) -> dict[str, Any]:
    names = {name for code in _codes(function.__code__) for name in code.co_names}
    found = {name: function.__globals__[name] for name in names if name in function.__globals__}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet, as a function that is about to be defined
            continue
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:  # comprehensions and inner functions
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _plain(value: Any) -> str | None:
    """`value` as JSON; None where it is no plain data."""
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError):
        return None
