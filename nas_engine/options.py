"""A dataclass of settings as the options of a command: names, types, defaults and help are the dataclass's own."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import typer

S = TypeVar("S")
_ENTRY = re.compile(r"^ {4}(\w+): (.*(?:\n {8,}\S.*)*)", re.MULTILINE)


def command(settings: type[S], run: Callable[[S], None]) -> Callable[..., None]:
    """A function for typer that makes `settings` of options and calls `run` with them.

    A tuple is an option that is repeated, without its plural: ``ranks`` is ``--rank 32 --rank 16``.
    """
    hints, told = get_type_hints(settings), described(settings)

    def called(**given: Any) -> None:
        run(settings(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}))

    parameters = []
    for field in fields(settings):  # type: ignore[arg-type]
        kind, default = _accepted(hints[field.name]), field.default
        assert default is not MISSING, f"{field.name} has no default"
        names = [f"--{field.name.removesuffix('s').replace('_', '-')}"] if get_origin(kind) is list else []
        option = typer.Option(*names, help=told[field.name])
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=list(default) if isinstance(default, tuple) else default,
                annotation=Annotated[kind, option],
            )
        )
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__doc__ = (inspect.getdoc(settings) or "").split("\n\n")[0]
    return called


def described(settings: type) -> dict[str, str]:
    """What the docstrings of `settings` and of what it inherits from say of each argument."""
    found: dict[str, str] = {}
    for kind in reversed(settings.__mro__):
        text = inspect.cleandoc(kind.__doc__ or "").partition("Args:\n")[2]
        found |= {name: _sentence(" ".join(line.split())) for name, line in _ENTRY.findall(text)}
    return found


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _accepted(kind: Any) -> Any:
    """The type that typer parses: tuples as lists; of names, which settings check themselves, texts."""
    if get_origin(kind) is tuple:
        return list[get_args(kind)[0]]  # type: ignore[misc]
    return str if get_origin(kind) is Literal else kind
