"""Settings as keyword arguments: a function takes a frozen dataclass, or its fields by name, and says so when asked.

So each setting has one default and one check, and stands in one list.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S")


def takes(settings: type) -> Callable[[F], F]:
    """Show the fields of `settings` in the signature of a function whose last parameter is ``**fields``.

    A notebook completes and explains them; the function itself calls `merged`.
    """

    def shown(function: F) -> F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        named = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(settings).parameters.values()]
        function.__signature__ = signature.replace(parameters=[*own, *named])  # type: ignore[attr-defined]
        return function

    return shown


def merged(kind: type[S], settings: S | Any | None, given: dict[str, Any], short: str = "") -> S:
    """`settings`, or the defaults of `kind`, with the fields that were `given` by name.

    Args:
        kind: of settings.
        settings: of that kind; or the value of the field `short`, where there is one.
        given: fields by name.
        short: the field that is often the only one.

    Raises:
        TypeError: `settings` is something else, or a name is no field; the fields are listed.
        ValueError: a value is out of its range.
    """
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    if unknown := [name for name in given if name not in known]:
        raise TypeError(f"{unknown[0]!r} is no setting here; the settings are {', '.join(known)}.")
    if settings is None:
        return kind(**given)
    if isinstance(settings, kind):
        return replace(settings, **given)  # type: ignore[type-var]
    if short:
        return kind(**{short: settings}, **given)
    raise TypeError(f"settings is {settings!r}; give {kind.__name__}(...), or its fields by name.")
