"""Results as files that others read, and the JSON file from which a result is made again. Nothing is unpickled."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import pandas as pd

from evaluators import Direction, Measurement
from evaluators.documents import read_document
from evaluators.whole_file import replacing
from nas_engine.errors import LedgerError, SelectionError
from nas_engine.execution.measuring import SearchableDefaults
from nas_engine.ledger.identity import space_differences
from nas_engine.ledger.ledger import LedgerContents, Record
from search_spaces import Configuration, SearchSpace

_FORMAT, _VERSION = "nas-engine result", 1


@dataclass(frozen=True)
class WithoutSupernet(SearchableDefaults):
    """Stands for the super-network of a result that was opened without one: it knows the space and no weights."""

    space: SearchSpace
    model: str

    def fingerprint(self) -> str:
        """The fingerprint of the super-network that was searched."""
        return self.model

    def subnetwork(self, configuration: Configuration) -> NoReturn:
        """There is none.

        Raises:
            SelectionError: always.
        """
        raise SelectionError(
            "this result was opened without its super-network, and so has no sub-networks; "
            "open it with SearchResult.load(storage, supernet)."
        )


@dataclass(frozen=True)
class Saved:
    """A search as it lies in a ledger or file.

    Args:
        contents: what was measured.
        objectives: names of what was to be optimized; None where that was not kept.
        constraints: as they were written.
    """

    contents: LedgerContents
    objectives: tuple[str, ...] | None = None
    constraints: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Objective:
    name: str
    direction: Direction
    unit: str


@dataclass(frozen=True)
class _Evaluation:
    genome: list[int]
    configuration: dict[str, int | float]
    measurements: list[tuple[float, float, int, str]]
    error: str


@dataclass(frozen=True)
class _Document:
    """What a file of `write_json` holds."""

    format: Literal["nas-engine result"]
    version: Literal[1]
    model: str
    space: dict[str, Any]
    objectives: list[_Objective]
    evaluations: list[_Evaluation]
    optimized: list[str] | None = None
    constraints: list[str] = field(default_factory=list)


def write_json(saved: Saved, path: str | Path) -> Path:
    """Write a search as one JSON object; floats keep every digit."""
    contents = saved.contents
    data = {
        "format": _FORMAT,
        "version": _VERSION,
        "model": contents.model,
        "space": contents.space.to_json(),
        "objectives": [dict(zip(("name", "direction", "unit"), o, strict=True)) for o in contents.objectives],
        "optimized": saved.objectives,
        "constraints": saved.constraints,
        "evaluations": [
            {
                "genome": list(record.genome),
                "configuration": contents.space.configuration(record.genome),
                "measurements": [astuple(m) for m in record.measurements],
                "error": record.error,
            }
            for record in contents.records
        ],
    }
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(data) + "\n", encoding="utf-8")
    return Path(path)


def read_json(path: str | Path) -> Saved:
    """The search that `write_json` wrote.

    Raises:
        LedgerError: the file is missing or is none of these.
    """
    saved = read_document(path, _Document, LedgerError, f"{path} cannot be read as a result that to_json wrote")
    try:
        space = SearchSpace.from_json(saved.space)
        records = []
        for entry in saved.evaluations:
            if space.configuration(entry.genome) != entry.configuration:
                raise ValueError(f"the genome {entry.genome} is not that of its configuration")
            if len(entry.measurements) != (0 if entry.error else len(saved.objectives)):
                raise ValueError(f"the genome {entry.genome} has {len(entry.measurements)} measurements")
            records.append(Record(tuple(entry.genome), tuple(Measurement(*m) for m in entry.measurements), entry.error))
    except (OverflowError, ValueError) as error:
        raise LedgerError(f"{path} is no result: {error}; give a file that to_json wrote.") from error
    objectives = tuple((o.name, o.direction, o.unit) for o in saved.objectives)
    contents = LedgerContents(space, saved.model, objectives, tuple(records))
    return Saved(contents, None if saved.optimized is None else tuple(saved.optimized), tuple(saved.constraints))


def write_parquet(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write a table as Parquet.

    Raises:
        SelectionError: pyarrow is not installed.
    """
    try:
        with replacing(path) as unfinished:
            frame.to_parquet(unfinished, engine="pyarrow")
    except ImportError as error:
        raise SelectionError('Parquet needs pyarrow: pip install "nas-engine[parquet]".') from error
    return Path(path)


def require_same(contents: LedgerContents, space: SearchSpace, model: str, where: str | Path) -> None:
    """Check that a search was one of this super-network.

    Raises:
        LedgerError: it was not (the difference is named).
    """
    if contents.space != space:
        differing = "; ".join(space_differences(contents.space.to_json(), space.to_json()))
        raise LedgerError(f"{where} holds a search of another space ({differing}).")
    if contents.model != model:
        raise LedgerError(
            f"{where} holds a search of another model or adapters (fingerprint {contents.model} there, {model} here)."
        )
