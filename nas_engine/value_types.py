"""Values out of YAML or JSON against the types that they are to have, refused in a user's words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from nas_engine.errors import SettingsError

_KINDS = {
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "a text",
    "a valid boolean": "true or false",
    "a valid array": "a list",
    "a valid dictionary": "names with values",
    "an object": "names with values",
    "a valid path": "a path",
    "None": "null",
    "callable": "something that is called, which a file cannot hold",
}


def as_typed(adapter: TypeAdapter[Any], name: str, value: Any, place: tuple[str | int, ...] | None = None) -> Any:
    """`value` as the type of `adapter` holds it.

    Args:
        adapter: of a type.
        name: of what has it, for a sentence.
        value: lists, names with values, texts, numbers, true, false and null.
        place: of it among the settings; by default its name is one.

    Raises:
        SettingsError: it is of another type.
    """
    try:
        return adapter.validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as failed:
        errors = failed.errors(include_url=False, include_context=False)
        deepest = max(errors, key=lambda error: len(error["loc"]))
        allowed = " or ".join(dict.fromkeys(_allowed(error["msg"]) for error in errors))
        found = tuple(part for part in deepest["loc"] if isinstance(part, int) or part in _keys(value))
        given = "empty" if value is None else repr(value)
        raise SettingsError(
            f"{name} is {given}; it should be {allowed}.", (*((name,) if place is None else place), *found)
        ) from None


def _allowed(message: str) -> str:
    """What pydantic says should be, in a user's words."""
    should = message.removeprefix("Input should be ").partition(" with one of")[0]
    return _KINDS.get(should, should)


def _keys(value: Any) -> set[Any]:
    return set(value) if isinstance(value, Mapping) else set()
