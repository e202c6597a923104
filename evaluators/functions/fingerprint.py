"""Telling one version of a user's function from another, so that a ledger does not mix their scores. Calls nothing."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from search_spaces.fingerprint import fingerprint_of


def function_fingerprint(function: FunctionType) -> str:
    """16 hexadecimal digits that change with the source of `function`, and with the numbers, texts, lists, functions,
    partials, bound methods and objects of its own module's classes that it takes from there or an enclosing function.

    Other objects, files, and what imported functions do are not seen.
    """
    parts = list(_parts(function, set()))
    return fingerprint_of(parts)


def _parts(function: FunctionType, seen: set[Any]) -> Iterator[Any]:
    """The source of `function` and, by name, what it reads from around it."""
    if function in seen:
        return
    seen.add(function)
    yield _source(function)
    module = function.__globals__.get("__name__")
    yield _value(function.__defaults__, module, seen), _value(function.__kwdefaults__, module, seen)
    for name, value in sorted(_surroundings(function).items()):
        yield [name, _value(value, module, seen)]


def _value(value: Any, module: str | None, seen: set[Any]) -> Any:
    """`value` as JSON data: plain as it is, code of `module` by its source; None for what cannot be told."""
    if isinstance(value, FunctionType):
        return list(_parts(value, seen)) if value.__globals__.get("__name__") == module else None
    if isinstance(value, partial):
        return [_value(part, module, seen) for part in (value.func, value.args, value.keywords)]
    if isinstance(value, MethodType):
        return [_value(part, module, seen) for part in (value.__func__, value.__self__)]
    if isinstance(value, list | tuple):
        return [_value(part, module, seen) for part in value]
    if isinstance(value, dict):
        return [[_plain(key), _value(part, module, seen)] for key, part in value.items()]
    if isinstance(value, type):
        return _class_parts(value, seen) if value.__module__ == module else None
    if type(value).__module__ == module and id(value) not in seen:
        seen.add(id(value))
        return [_class_parts(type(value), seen), _value(getattr(value, "__dict__", {}), module, seen)]
    return _plain(value)


def _class_parts(of: type, seen: set[Any]) -> Any:
    """The functions of a class, and its plain attributes."""
    if of in seen:
        return None
    seen.add(of)
    return [[name, _value(value, of.__module__, seen)] for name, value in sorted(vars(of).items()) if name[:2] != "__"
            or isinstance(value, FunctionType)]  # fmt: skip


def _source(function: FunctionType) -> str:
    try:
        # Of the code, for of a function the one that functools.wraps names is shown instead.
        return inspect.getsource(function.__code__)
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
