"""What a settings file names: a thing by name, or by ``module:attribute``, with its arguments.

``parameters`` and ``{perplexity: {max_tokens: 256}}`` are read alike. What is named is checked when settings are made:
that it exists, and that it takes these arguments.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import PydanticUserError, TypeAdapter

from nas_engine.errors import NasEngineError, SettingsError
from nas_engine.value_types import as_typed

Named = str | dict[str, Any]
Place = tuple[str | int, ...]


def parts(entry: Named, place: Place) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of an entry.

    Raises:
        SettingsError: it is neither a name nor one name with its arguments.
    """
    if isinstance(entry, str):
        return entry, {}
    if len(entry) == 1:
        name, arguments = next(iter(entry.items()))
        if arguments is None:
            return str(name), {}
        if isinstance(arguments, Mapping) and all(isinstance(key, str) for key in arguments):
            return str(name), dict(arguments)
    raise SettingsError(f"{entry!r} is no name; write one name, or a name and its arguments: name: {{a: 1}}.", place)


def made(entry: Named, place: Place, find: Callable[[str], Any], known: Iterable[str], own: str = "") -> Any:
    """The thing that `entry` names, called with its arguments where it is to be called.

    Args:
        entry: a name with or without arguments.
        place: where it stands in its file.
        find: what a name without a colon stands for; raises LookupError where it stands for nothing.
        known: names to list where it does.
        own: what to do about a function of the user's that lacks arguments.

    Raises:
        SettingsError: nothing of that name, arguments that it does not take, or values that it refuses.
    """
    name, arguments = parts(entry, place)
    if ":" in name:
        found = imported(name, place)
    else:
        try:
            found = find(name)
        except LookupError:
            of_yours = " One of yours is written module:attribute." if "." in name else ""
            raise SettingsError(f"there is no {name!r}; {nearest(name, known)}{of_yours}", (*place, name)) from None
    if not _is_called(found):
        if arguments:
            raise SettingsError(f"{name} is ready for use and takes no arguments; leave them out.", (*place, name))
        return found
    _require_taken(found, name, arguments, (*place, name), own if ":" in name else "")
    # What a function of the user's stumbles on may be anything.
    refusals = (Exception,) if ":" in name else (ValueError, TypeError)
    try:
        return found(**{key: _tuples(value) for key, value in arguments.items()})
    except refusals as error:
        raise SettingsError(f"{name}: {_said(error)}", (*place, name)) from error


def _require_taken(found: Callable[..., Any], name: str, arguments: Mapping[str, Any], place: Place, own: str) -> None:
    """Check that `found` takes such arguments, by its signature and the types that it says.

    Raises:
        SettingsError: it does not.
    """
    signature = inspect.signature(found)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        takes = ", ".join(signature.parameters)
        raise SettingsError(f"{name}: {error}; it takes {takes or 'no arguments'}.{own}", place) from None
    for argument, value in arguments.items():
        if (adapter := _adapter(found, argument)) is not None:
            as_typed(adapter, f"{name}: {argument}", value, (*place, argument))


def _adapter(found: Callable[..., Any], argument: str) -> TypeAdapter[Any] | None:
    """Of the type that an argument is said to have; None where that is nothing that a file could hold or break."""
    try:
        kind: Any = get_type_hints(found.__init__ if inspect.isclass(found) else found)[argument]
        if get_origin(kind) is Iterable:  # whose elements are to be looked at too, and a text is no list
            kind = Sequence[get_args(kind)[0]]  # type: ignore[misc]
        return TypeAdapter(kind)
    except (KeyError, NameError, TypeError, PydanticUserError):
        return None


def imported(name: str, place: Place) -> Any:
    """What ``module:attribute`` names; modules beside the working directory are found too.

    Raises:
        SettingsError: no such module or attribute.
    """
    module, _, attribute = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module runs whatever is in it
        raise SettingsError(f"{name!r} cannot be imported: {_said(error)}; write module:attribute.", place) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence with the names that there are, the nearest one first."""
    names = sorted(known)
    close = get_close_matches(name, names, 1)
    return f"{f'did you mean {close[0]}? ' if close else ''}There are {', '.join(names)}."


def _said(error: Exception) -> str:
    """What was wrong; of errors that are not about what was given, their kind too."""
    known = isinstance(error, ImportError | AttributeError | ValueError | TypeError | NasEngineError)
    return str(error) if known else f"{type(error).__name__}: {error}"


def _is_called(found: Any) -> bool:
    return inspect.isclass(found) or inspect.isroutine(found)


def _tuples(value: Any) -> Any:
    """Lists as tuples, as settings hold them."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
