"""Where rows come from: files, folders, data sets of Hugging Face. Knows columns, and nothing of what they mean."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from evaluators.documents import decoded, why_unreadable
from evaluators.text.jsonl import decoded_lines
from nas_engine.data.docstrings import DOCSTRINGS, docstrings
from nas_engine.data.made import CHAIN_SUM, FAMILY
from nas_engine.errors import TaskError

HUB_PREFIX = "hf:"
_TABLES = {".csv": ",", ".tsv": "\t"}
_LINES = (".jsonl", ".ndjson")
_SUFFIXES = (*_LINES, ".json", *_TABLES, ".parquet", ".txt")
_FORMS = f"files end in {', '.join(_SUFFIXES)}"


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Args:
        where: for a sentence that names it.
        fields: its columns.
    """

    where: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """Rows to learn from, and to judge by where they are given apart.

    Args:
        name: as the user gave it.
        train: all rows to learn from; where nothing else is given, the test is cut from them.
        test: None where none is given.
    """

    name: str
    train: tuple[Row, ...]
    test: tuple[Row, ...] | None

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns with anything in them, in their order."""
        rows = (*self.train, *(self.test or ()))
        return tuple(dict.fromkeys(name for row in rows for name, value in row.fields.items() if value is not None))

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of all rows."""
        digest = hashlib.sha256()
        for part in (self.train, self.test):
            digest.update(b"none" if part is None else b"rows")
            for row in part or ():
                digest.update(json.dumps(row.fields, sort_keys=True, default=str).encode() + b"\n")
        return digest.hexdigest()[:16]


def read_source(name: str) -> Source:
    """The rows of a file, of a folder with ``train.*`` and ``test.*``, of a data set of Hugging Face, or `docstrings`.

    Raises:
        TaskError: there is nothing of that name, or it cannot be read; a wrong line is named.
    """
    if name.startswith(HUB_PREFIX):
        return _from_hub(name)
    if name == DOCSTRINGS:
        made = enumerate(docstrings(), start=1)
        return Source(name, tuple(Row(f"{name}, sentence {i}", {"text": t, "label": of}) for i, (t, of) in made), None)
    path = Path(name)
    if path.is_dir():
        return Source(name, _rows(_only(path, "train")), _rows(_only(path, "test")))
    if path.is_file():
        return Source(name, _rows(path), None)
    raise TaskError(
        f"there is no task {name!r}; give {FAMILY!r}, {CHAIN_SUM!r}, {DOCSTRINGS!r}, a file ({_FORMS}), a folder with "
        f"train.* and test.*, or {HUB_PREFIX}<dataset>[:<configuration>]."
    )


def _only(folder: Path, part: str) -> Path:
    found = sorted(path for path in folder.glob(f"{part}.*") if path.suffix in _SUFFIXES)
    if len(found) != 1:
        raise TaskError(
            f"the folder {folder} has {len(found)} files {part}.*; give one train.* and one test.* ({_FORMS})."
        )
    return found[0]


def _rows(path: Path) -> tuple[Row, ...]:
    suffix = path.suffix.lower()
    if suffix in _LINES:
        return tuple(Row(where, _object(data, where)) for where, _, data in decoded_lines(path, TaskError, "row"))
    if suffix not in _SUFFIXES:
        raise TaskError(f"{path} ends in {suffix or 'nothing'}; {_FORMS}.")
    try:
        rows = _READERS[suffix](path)
    except ImportError as error:
        raise TaskError(f"{path} needs the package pyarrow; install it with: pip install pyarrow.") from error
    except (OSError, ValueError) as error:  # a parser's errors are ValueErrors
        if isinstance(error, TaskError):
            raise
        raise TaskError(f"{path} cannot be read: {why_unreadable(error)}.") from error
    if not rows:
        raise TaskError(f"{path} has no row.")
    return rows


def _of_json(path: Path) -> tuple[Row, ...]:
    data = decoded(path.read_text(encoding="utf-8-sig"), TaskError, str(path))
    if not isinstance(data, list):
        raise TaskError(f"{path} holds no list of objects at its top; give one, or a JSONL file.")
    return tuple(Row(where, _object(item, where)) for i, item in enumerate(data) if (where := f"{path}, item {i}"))


def _of_table(path: Path) -> tuple[Row, ...]:
    # All as it is written: a "1", an "NA" or an empty cell is a text.
    frame = pd.read_csv(path, sep=_TABLES[path.suffix.lower()], dtype=str, keep_default_na=False, encoding="utf-8-sig")
    return tuple(_numbered(frame.to_dict("records"), str(path)))


def _of_parquet(path: Path) -> tuple[Row, ...]:
    return tuple(_numbered(pd.read_parquet(path, engine="pyarrow").to_dict("records"), str(path)))


def _of_text(path: Path) -> tuple[Row, ...]:
    # As Hugging Face reads such files: a text a line.
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return tuple(Row(f"{path}, line {i}", {"text": line}) for i, line in enumerate(lines, 1) if line.strip())


_READERS = {".json": _of_json, ".parquet": _of_parquet, ".txt": _of_text, **dict.fromkeys(_TABLES, _of_table)}


def _numbered(rows: Iterable[Mapping[Any, Any]], where: str) -> Iterable[Row]:
    return (
        Row(f"{where}, row {i}", {str(name): _plain(value) for name, value in row.items()})
        for i, row in enumerate(rows)
    )


def _plain(value: Any) -> Any:
    """Lists, dicts, texts and numbers of whatever arrays and missing values a table's reader gives."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if value is None or value is pd.NA or value != value else value


def _object(data: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise TaskError(f'{where} is no object such as {{"text": "…"}}, but {str(data)[:60]!r}.')
    return data


def _from_hub(name: str) -> Source:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise TaskError(f"{name!r} needs the package datasets; install it with: pip install datasets.") from error
    dataset, _, configuration = name.removeprefix(HUB_PREFIX).partition(":")
    try:
        splits = load_dataset(dataset, configuration or None)
    except Exception as error:  # datasets raises whatever it stumbles on
        raise TaskError(f"{name!r} cannot be loaded: {' '.join(str(error).split())}") from error
    if "train" not in splits:
        raise TaskError(f"{name!r} has the splits {', '.join(splits)}, and no train; train and test are used.")
    parts = {part: tuple(_numbered(splits[part], f"{name}, {part}")) for part in ("train", "test") if part in splits}
    return Source(name, parts["train"], parts.get("test"))
