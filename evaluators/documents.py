"""JSON documents read whole: what is in one is what a type says, or one sentence says where it is not."""

from __future__ import annotations

import json
from collections.abc import Hashable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

T = TypeVar("T")


def read_document(path: str | Path, kind: type[T], error: type[ValueError], refusal: str) -> T:
    """The content of a JSON file as a `kind`: a dataclass, or a type of lists, dicts, texts and numbers.

    Args:
        kind: what it has to be; numbers are not texts, and truth values no numbers.
        error: what is raised.
        refusal: begins the sentence that says what is wrong.

    Raises:
        ValueError: of the type `error`: the file cannot be read, or it is something else (the place is named).
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as failed:  # such as of a path with a zero byte
        raise error(f"{refusal}: {path} cannot be read: {failed}.") from failed
    return parsed(content, kind, error, refusal)


def parsed(content: bytes | str, kind: type[T], error: type[ValueError], refusal: str) -> T:
    """As `read_document`, of text at hand."""
    try:
        found: T = _adapter(cast(Hashable, kind)).validate_json(content, strict=True)
        return found
    except ValidationError as failed:
        first = failed.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise error(f"{refusal}: {f'{place}: ' if place else ''}{first['msg']}.") from failed


def checked(data: Any, kind: type[T], error: type[ValueError], refusal: str) -> T:
    """As `parsed`, of JSON data that was read already."""
    return parsed(json.dumps(data), kind, error, refusal)


def decoded(content: bytes | str, error: type[ValueError], where: str) -> Any:
    """Any JSON value.

    Raises:
        ValueError: of the type `error`: `content` is not JSON, or nested deeper than anybody writes.
    """
    try:
        return from_json(content)
    except ValueError as failed:
        raise error(f"{where} is not JSON: {failed}.") from failed


def why_unreadable(failed: Exception) -> str:
    """Why a file of text could not be read, in the words of whoever has it."""
    if isinstance(failed, UnicodeDecodeError):
        return "it is no text in UTF-8; save it as that"
    return str(failed).strip().rstrip(".")


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))
