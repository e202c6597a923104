"""Settings as a YAML file: read, with the line of what is wrong, and written, with what each of them means."""

from __future__ import annotations

import inspect
import io
import json
import re
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from evaluators.documents import why_unreadable
from evaluators.whole_file import replacing
from nas_engine.errors import PlacedError, SettingsError
from nas_engine.named import Place, nearest
from nas_engine.value_types import as_typed

S = TypeVar("S")
_ENTRY = re.compile(r"^ {4}(\w+): (.*(?:\n {8,}\S.*)*)", re.MULTILINE)


def read_settings(file: str | Path, kind: type[S], over: Mapping[str, Any] | None = None) -> S:
    """The settings of a YAML file.

    Args:
        file: a mapping of fields of `kind` to values; what it leaves out has its default.
        kind: a dataclass.
        over: fields that count instead of the file's.

    Raises:
        SettingsError: it cannot be read, or a field is unknown, of another type or out of its range; the file, the line
            and what is allowed are named.
    """
    text = _text(file)
    data, root = _parsed(text, file)
    found: dict[str, Any] = {}
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for name, value in data.items():
        if name not in names:
            raise _at(file, root, SettingsError(f"there is no setting {name!r}; {nearest(str(name), names)}", (name,)))
        try:
            found[name] = typed(kind, name, value)
        except SettingsError as error:
            raise _at(file, root, error) from None
    try:
        return kind(**{**found, **(over or {})})
    except SettingsError as error:
        own = error.place and error.place[0] in data and error.place[0] not in (over or {})
        raise _at(file, root, error) if own else error from None
    except ValueError as error:
        # A setting is named first in what refuses it.
        places = sorted((str(error).find(name), name) for name in {*found, *(over or {})} if name in str(error))
        if places and places[0][1] in (over or {}):
            raise
        raise _at(file, root, SettingsError(str(error), (places[0][1],) if places else ())) from error


@contextmanager
def located(file: str | Path, over: Container[str] = ()) -> Iterator[None]:
    """Name the line of a setting that is refused within, as where a model or data show that it cannot be.

    Args:
        file: that the settings were read from.
        over: settings that are not the file's, though it may have them.

    Raises:
        SettingsError: in place of an error that knows which setting is wrong.
    """
    _, root = _parsed(_text(file), file)
    try:
        yield
    except PlacedError as error:
        if (error.place and error.place[0] in over) or _line(root, error.place) is None:
            raise
        raise _at(file, root, error) from error


def typed(kind: type, name: str, value: Any) -> Any:
    """`value`, out of YAML or JSON, as the field `name` of `kind` holds it.

    Raises:
        SettingsError: it is of another type.
    """
    return as_typed(_adapter(kind, name), name, value)


def parsed_value(text: str) -> Any:
    """What `text` is in YAML, such as ``{latency: {tokens: 64}}``.

    Raises:
        SettingsError: it is no YAML.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise SettingsError(f"{text!r} is no YAML: {str(error).splitlines()[0]}.") from error


def as_yaml(settings: Any, told: bool = True) -> str:
    """All fields of `settings` with their values; `told` puts above each what it means."""
    yaml = YAML()
    yaml.width, yaml.default_flow_style = 100, False
    meanings, lines = described(type(settings)), []
    for name, value in json.loads(json.dumps(asdict(settings), default=str)).items():
        stream = io.StringIO()
        yaml.dump({name: _flat(value)}, stream)
        lines += [f"# {meanings[name]}"] * told + [stream.getvalue().rstrip("\n")]
    return "\n".join(lines) + "\n"


def write_settings(settings: Any, file: Path) -> None:
    """Write `settings` so that `read_settings` gives them again."""
    with replacing(file) as unfinished:
        unfinished.write_text(as_yaml(settings), encoding="utf-8")


def schema(kind: type) -> dict[str, Any]:
    """A JSON schema of the file, by which editors complete and check it.

    The metadata ``names`` of a field give the names that its texts may be, or that may be named in it.
    """
    meanings, hints = described(kind), get_type_hints(kind)
    properties = {}
    for field in fields(kind):
        made = TypeAdapter(hints[field.name]).json_schema()
        if names := field.metadata.get("names"):
            made = _with_names(made, list(names()))
        default = json.loads(json.dumps(field.default, default=str))
        properties[field.name] = made | {"description": meanings[field.name], "default": default}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind.__name__,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _with_names(made: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """`made` of a text, or of what is named with arguments, with the `names` that there are."""
    if made.get("type") == "array":
        return made | {"items": _with_names(made["items"], names)}
    if made.get("type") == "string":
        return made | {"enum": names}
    own = {"type": "string", "pattern": ":"}  # module:attribute
    one = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "properties": {name: {"type": ["object", "null"]} for name in names},
        "patternProperties": {":": {"type": ["object", "null"]}},
        "additionalProperties": False,
    }
    others = [kind for kind in made["anyOf"] if kind["type"] not in ("string", "object")]
    return made | {"anyOf": [{"enum": names}, own, one, *others]}


def described(settings: type) -> dict[str, str]:
    """What the docstrings of `settings` and of what it inherits from say of each argument."""
    found: dict[str, str] = {}
    for kind in reversed(settings.__mro__):
        text = inspect.cleandoc(kind.__doc__ or "").partition("Args:\n")[2]
        found |= {name: _sentence(" ".join(line.split())) for name, line in _ENTRY.findall(text)}
    return found


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _flat(value: Any) -> Any:
    """Lists of plain values on one line."""
    if not isinstance(value, list):
        return value
    listed = CommentedSeq(value)
    if not any(isinstance(item, Mapping) for item in value):
        listed.fa.set_flow_style()
    return listed


@cache
def _adapter(kind: type, name: str) -> TypeAdapter[Any]:
    return TypeAdapter(get_type_hints(kind)[name])


def _text(file: str | Path) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} cannot be read: {why_unreadable(error)}.") from error


def _parsed(text: str, file: str | Path) -> tuple[dict[Any, Any], Node | None]:
    """The content and its nodes, which know their lines."""
    try:
        data = YAML(typ="safe", pure=True).load(text)
        root: Node | None = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise SettingsError(f"{file}{line}: {(error.problem or 'no YAML').splitlines()[0]}.") from error
    except YAMLError as error:
        raise SettingsError(f"{file} is no YAML: {str(error).splitlines()[0]}.") from error
    if not isinstance(data, dict | None):
        raise SettingsError(f"{file} holds {type(data).__name__}; write settings as name: value, a line each.")
    return data or {}, root


def _at(file: str | Path, root: Node | None, error: PlacedError) -> SettingsError:
    """`error` with its file and line."""
    line = _line(root, error.place)
    return SettingsError(f"{file}{f', line {line}' if line else ''}: {error}", error.place)


def _line(node: Node | None, place: Place) -> int | None:
    """The line, from 1, of what is at `place`, or of the last of it that can be found; None where nothing can."""
    line: int | None = None
    for part in place:
        if isinstance(node, MappingNode):
            found = [(key, value) for key, value in node.value if key.value == part]
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
