"""All that a run folder says, read without changing it, while the job that writes it may still be at work."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pandas as pd

from evaluators import Direction, Measurement
from evaluators.documents import read_document
from nas_engine.errors import LedgerError
from nas_engine.ledger.ledger import Record
from nas_engine.ledger.storage import JOURNAL
from nas_engine.page.about import ABOUT, About, Compared, told
from nas_engine.page.summary import SUMMARY, SearchSummary, Summary, summary_of
from nas_engine.results.confirmation import ConfirmedFront
from nas_engine.results.exports import WithoutSupernet
from nas_engine.results.result import SearchResult
from nas_engine.results.table import Objective, row_of
from search_spaces import Configuration, SearchSpace, SpaceError

TOLD = "search.json"  # what a job made of its search
_SENSITIVITY = "sensitivity.json"
_SEARCHES = "search"  # below it a recipe's searches have a folder each, named by the driver


@dataclass(frozen=True)
class Found:
    """A search of a run, or what a recipe compared.

    Args:
        label: which one.
        result: its rows.
        chosen: the row that became the model; None where none did yet.
        names: what rows are called, by evaluation.
        confirmed: its front measured again, once for each set of evaluators.
    """

    label: str
    result: SearchResult[Any]
    chosen: pd.Series | None = None
    names: Mapping[int, str] = field(default_factory=dict)
    confirmed: Sequence[ConfirmedFront[Any]] = ()


@dataclass(frozen=True)
class Run:
    """What a run folder says.

    Args:
        folder: of the run.
        about: what the job told of itself; None of a search from Python, or of an older version.
        summary: what was measured at the end; None before it.
        searches: what was measured on the way.
        sensitivity: of each gene, by name; None where it was not measured.
        problems: what could not be read, a sentence each.
    """

    folder: Path
    about: About | None = None
    summary: Summary | None = None
    searches: Sequence[Found] = ()
    sensitivity: Mapping[str, Sequence[float]] | None = None
    problems: Sequence[str] = ()

    @property
    def finished(self) -> bool:
        """Whether the job came to its end."""
        return self.summary is not None

    @property
    def name(self) -> str:
        """The folder's name, without where it is."""
        return self.folder.resolve().name


def read_run(folder: str | Path) -> Run:
    """Everything that is in a run folder.

    Raises:
        LedgerError: there is no run, or its ledger is damaged.
    """
    run = glance(folder)
    if not (run.searches or run.about or run.summary or run.problems):
        raise LedgerError(
            f"there is no run in {folder}: neither {JOURNAL} nor {SUMMARY}. Give the folder of nas-engine search, "
            "shears or sqft, or the storage= of a search."
        )
    return run


def glance(folder: str | Path, patient: bool = False) -> Run:
    """As `read_run`, and nothing where nothing is there yet.

    Args:
        folder: of the run.
        patient: tell of what cannot be read among the `problems`, instead of raising it.

    Raises:
        LedgerError: a ledger is damaged.
    """
    folder, problems = Path(folder), []

    def tried(read: Any, *arguments: Any, known: Any = None) -> Any:
        try:
            return read(*arguments)
        except (LedgerError, OSError) as error:
            problems.append(str(error))
            return known

    about = tried(told, folder)
    # Of a job that began again the summary is that of the last time.
    summary = None if about is not None and not about.finished else tried(summary_of, folder)
    searches: list[Found] = []
    for label, place in _places(folder):
        try:
            searches.append(_search(label, place, about, summary))
        except LedgerError as error:
            if not patient:
                raise
            problems.append(str(error))
    if about is not None and about.compared is not None:
        searches.insert(0, tried(_compared, about.compared))
    searches = [found for found in searches if found is not None]
    spaces = [found.result.supernet.space for found in searches]
    return Run(folder, about, summary, tuple(searches), tried(_sensitivity, folder, spaces), tuple(problems))


def _places(folder: Path) -> Iterable[tuple[str, Path]]:
    """The searches' names and folders."""
    if (folder / JOURNAL).is_file():
        yield "search", folder
    for journal in sorted((folder / _SEARCHES).glob(f"*/{JOURNAL}")):
        yield f"search by {journal.parent.name}", journal.parent


def _search(label: str, place: Path, about: About | None, summary: Summary | None) -> Found:
    constraints = about.constraints if about is not None else []
    result: SearchResult[Any] = SearchResult.load(place, constraints=constraints)
    again = result.confirmed()
    if (place / TOLD).is_file():
        # Once a job is over: what it optimized, and evaluations numbered as everywhere else.
        told: SearchResult[Any] = SearchResult.load(place / TOLD)
        if {record.genome for record in told.records} == {record.genome for record in result.records}:
            result = told
    chosen = None
    if isinstance(summary, SearchSummary):
        chosen = _row(result, summary.chosen.configuration)
    return Found(label, result, chosen, confirmed=again)


def _compared(compared: Compared) -> Found:
    """What a recipe compared, as if it were a search."""
    try:
        space = SearchSpace.from_json(compared.space)
        records = [
            Record(tuple(c.genome), tuple(Measurement(*m) for m in zip(c.values, c.stderrs, c.n, strict=True)))
            for c in compared.candidates
        ]
        objectives = [Objective(name, cast(Direction, way), unit) for name, way, unit in compared.objectives]
        result: SearchResult[Any] = SearchResult(WithoutSupernet(space, ""), objectives, records)
    except (SpaceError, ValueError) as error:
        raise LedgerError(f"{ABOUT} holds candidates that are none: {error}") from error
    names = {number: candidate.name for number, candidate in enumerate(compared.candidates, start=1)}
    return Found("compared", result, result.frame.iloc[0] if len(result) else None, names)


def _row(result: SearchResult[Any], configuration: Configuration) -> pd.Series | None:
    space = result.supernet.space
    try:
        rows = row_of(result.frame, space, space.genome(configuration))
    except ValueError:  # another space's
        return None
    return rows.iloc[0] if len(rows) else None


def _sensitivity(folder: Path, spaces: Sequence[SearchSpace]) -> Mapping[str, Sequence[float]] | None:
    """What the run kept of the genes of one of its spaces; None where that is of another."""
    file = folder / _SENSITIVITY
    if not file.is_file():
        return None
    kept = read_document(file, dict[str, Any], LedgerError, f"{file} is damaged; delete it, to measure anew")
    genes = kept.get("genes")
    for space in spaces:
        if isinstance(genes, dict) and {n: len(v) for n, v in genes.items()} == {g.name: len(g) for g in space.genes}:
            return cast(Mapping[str, Sequence[float]], genes)
    return None


def stamp(folder: str | Path) -> str:
    """Another text whenever something that a page shows was written."""
    folder = Path(folder)
    files = [folder / name for name in (JOURNAL, ABOUT, SUMMARY, _SENSITIVITY)]
    files += sorted((folder / _SEARCHES).glob(f"*/{JOURNAL}"))
    seen = []
    for file in files:
        try:
            found = file.stat()
        except OSError:
            continue
        seen.append((file.name, found.st_mtime_ns, found.st_size, found.st_ino))
    return json.dumps(seen)
