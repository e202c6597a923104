"""A dataclass of settings as a command: a file of them, options over it, all with the dataclass's names and help."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import typer

from nas_engine.named import Named
from nas_engine.settings_file import as_yaml, described, located, parsed_value, read_settings

S = TypeVar("S")


def command(
    settings: type[S], run: Callable[[S], None], instead: Mapping[str, tuple[str, Callable[[S], None]]] | None = None
) -> Callable[..., None]:
    """A function for typer that makes `settings` of a file and of options, which count where both say something, and
    calls `run` with them.

    A tuple is an option that is repeated, without its plural: ``ranks`` is ``--rank 32 --rank 16``. What is named with
    arguments is written as YAML: ``--evaluator '{energy: {device: jetson}}'``.

    Args:
        settings: the dataclass.
        run: what is done with them.
        instead: by the name of a flag, its help and what is done instead where it is given.
    """
    hints, told, others = get_type_hints(settings), described(settings), instead or {}

    def called(file: Path | None, print_config: bool, **given: Any) -> None:
        asked = [other for flag, (_, other) in others.items() if given.pop(flag)]
        over = {name: _read(hints[name], value) for name, value in given.items() if value not in (None, [])}
        made = settings(**over) if file is None else read_settings(file, settings, over)
        if print_config:
            typer.echo(as_yaml(made), nl=False)
            return
        with nullcontext() if file is None else located(file, over):
            (asked or [run])[0](made)

    about = "YAML file of settings; options count instead of what it says."
    parameters = [
        _parameter("file", Annotated[Path | None, typer.Argument(help=about, show_default=False)], None),
        _parameter("print_config", Annotated[bool, typer.Option(help="Print all settings as such a file.")], False),
    ]
    parameters += [
        _parameter(flag, Annotated[bool, typer.Option(f"--{flag}", help=told_of)], False)
        for flag, (told_of, _) in others.items()
    ]
    for field in fields(settings):  # type: ignore[arg-type]
        kind, default = _accepted(hints[field.name]), field.default
        assert default is not MISSING, f"{field.name} has no default"
        names = [f"--{field.name.removesuffix('s').replace('_', '-')}"] if get_origin(kind) is list else []
        option = typer.Option(*names, help=told[field.name], show_default=_shown(field.name, default))
        parameters.append(_parameter(field.name, Annotated[kind | None, option], None))
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__doc__ = (inspect.getdoc(settings) or "").split("\n\n")[0]
    return called


def command_line(name: str, settings: Any) -> str:
    """The command that makes `settings` again: what is not its default, quoted for a shell."""
    kinds = get_type_hints(type(settings))
    words = ["nas-engine", name]
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value == field.default or value is None:
            continue
        option = f"--{field.name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(option if value else f"--no-{option[2:]}")
        elif get_origin(kinds[field.name]) is tuple:
            words += [word for entry in value for word in (option.removesuffix("s"), _said(entry))]
        else:
            words += [option, _said(value)]
    return shlex.join(words)


def _said(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _shown(name: str, default: Any) -> str | bool:
    """The default as the help shows it; nothing where there is none."""
    if default is None or default == ():
        return False
    if isinstance(default, bool):
        return name.replace("_", "-") if default else f"no-{name.replace('_', '-')}"
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _accepted(kind: Any) -> Any:
    """The type that typer parses: tuples as lists; names and what is written as YAML as texts."""
    if get_origin(kind) is tuple:
        return list[_accepted(get_args(kind)[0])]  # type: ignore[misc]
    named = kind == Named or kind == Named | None
    return str if named or get_origin(kind) is Literal else kind


def _read(kind: Any, value: Any) -> Any:
    """What typer parsed, as settings hold it."""
    if isinstance(value, list):
        return tuple(_read(get_args(kind)[0], item) for item in value)
    return parsed_value(value) if kind in (Named, Named | None) else value
