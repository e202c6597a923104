"""Results as files that others read, and the JSON file from which a result is made again. Nothing is unpickled."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd

from evaluators import Measurement
from nas_engine.search.errors import LedgerError, SelectionError
from nas_engine.search.identity import space_differences
from nas_engine.search.ledger import LedgerContents, Record
from search_spaces import Configuration, SearchSpace

_FORMAT, _VERSION = "nas-engine result", 1


@dataclass(frozen=True)
class WithoutSupernet:
    """Stands for the super-network of a result that was opened without one: it knows the space and no weights."""

    space: SearchSpace
    model: str

    def fingerprint(self) -> str:
        """Of the super-network that was searched."""
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
    Path(path).write_text(json.dumps(data) + "\n", encoding="utf-8")
    return Path(path)


def read_json(path: str | Path) -> Saved:
    """The search that `write_json` wrote.

    Raises:
        LedgerError: the file is missing or is none of these.
    """
    try:
        data: Any = json.loads(Path(path).read_text(encoding="utf-8"))
        if data["format"] != _FORMAT or data["version"] != _VERSION:
            raise ValueError(f"its format is {data['format']!r}, version {data['version']!r}")
        contents = LedgerContents(
            SearchSpace.from_json(data["space"]),
            data["model"],
            tuple((o["name"], o["direction"], o["unit"]) for o in data["objectives"]),
            tuple(
                Record(tuple(e["genome"]), tuple(Measurement(*m) for m in e["measurements"]), e["error"])
                for e in data["evaluations"]
            ),
        )
        optimized = data.get("optimized")
        return Saved(contents, None if optimized is None else tuple(optimized), tuple(data.get("constraints", ())))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LedgerError(
            f"{path} cannot be read as a result ({type(error).__name__}: {error}); give a file that to_json wrote."
        ) from error


def write_parquet(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write a table as Parquet.

    Raises:
        SelectionError: pyarrow is not installed.
    """
    try:
        frame.to_parquet(path, engine="pyarrow")
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
