"""The front measured again on held-out data: what of it was luck, and what still stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

import numpy as np
import pandas as pd

from evaluators import Evaluator, MultipleChoiceAccuracy, Question
from evaluators.whole_file import replacing
from nas_engine import plots
from nas_engine.errors import SelectionError
from nas_engine.execution.measured import measured
from nas_engine.execution.measuring import S, Searchable
from nas_engine.ledger.ledger import Record, read_ledger
from nas_engine.ledger.storage import Storage, studies_of
from nas_engine.results.dominance import dominated_beyond_error, non_dominated
from nas_engine.results.table import Objective, configuration_of
from search_spaces import Genome

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_STUDY = "nas-engine-confirmed"


@dataclass(frozen=True)
class Front(Generic[S]):
    """What a search put on its front.

    Args:
        supernet: gives the sub-networks of rows.
        objectives: the evaluators' columns.
        rows: by evaluation.
        genomes: of the rows.
    """

    supernet: Searchable[S]
    objectives: Sequence[Objective]
    rows: pd.DataFrame
    genomes: Sequence[Genome]


class ConfirmedFront(Generic[S]):
    """The rows of a search's front, measured again.

    Args:
        found: by the search.
        frame: as `confirm` makes it.
        confirmed: the objectives that were measured again.

    Attributes:
        frame: one row for each row of the search's front, under its evaluation's number: the genes; each objective
            with `<objective>_stderr`, from the held-out data where it was measured again, else from the search;
            `<objective>_search` and `<objective>_search_stderr` for those measured again; `error`, empty unless that
            failed; `on_front`, whether no other of these rows dominates it now; `dominated_beyond_error`, whether one
            does so by more than the standard errors explain
            (`nas_engine.results.dominance.dominated_beyond_error`, with one standard error). A row with `on_front`
            False and `dominated_beyond_error` False may have had bad luck on the held-out data; one with both is no
            longer on the front.
    """

    def __init__(self, found: Front[S], frame: pd.DataFrame, confirmed: Sequence[str]) -> None:
        self._found, self.frame, self.confirmed = found, frame, tuple(confirmed)

    def __len__(self) -> int:
        return len(self.frame)

    def __repr__(self) -> str:
        surely = int(self.frame["dominated_beyond_error"].sum())
        return (
            f"ConfirmedFront({len(self)} rows measured again, {len(self.front)} still on the front, "
            f"{len(self.dropped)} no longer, {surely} of them beyond the errors)"
        )

    def _repr_html_(self) -> str:
        genes = list(self._found.supernet.space.names)
        return f"<p>{self!r}</p>{self.frame.drop(columns=genes).to_html()}"

    @property
    def front(self) -> pd.DataFrame:
        """The rows that no other dominates on the held-out data."""
        return self.frame[self.frame["on_front"]]

    @property
    def dropped(self) -> pd.DataFrame:
        """The rows that no longer are on the front."""
        return self.frame[~self.frame["on_front"]]

    def optimism(self, objective: str) -> float:
        """By how much the search thought better of its front than the held-out data do, mean over rows, positive where
        it was too hopeful.

        Raises:
            SelectionError: the objective was not measured again.
        """
        if objective not in self.confirmed:
            raise SelectionError(f"{objective!r} was not measured again; {', '.join(self.confirmed)} was.")
        sign = next(o.sign for o in self._found.objectives if o.name == objective)
        return float(sign * (self.frame[objective] - self.frame[f"{objective}_search"]).mean())

    def subnetwork(self, row: pd.Series) -> S:
        """The sub-network of a row of `frame`."""
        supernet = self._found.supernet
        return supernet.subnetwork(configuration_of(row, supernet.space))

    def plot(self, x: str, y: str, ax: Axes | None = None) -> Axes:
        """Draw objective `y` against `x` on the held-out data, with where the search had seen each row.

        Raises:
            SelectionError: an unknown objective.
        """
        by_name = {o.name: o for o in self._found.objectives}
        for name in (x, y):
            if name not in by_name:
                raise SelectionError(f"{name!r} is no objective; choose from {', '.join(by_name)}.")
        return plots.plot_confirmed(self.frame[self.frame["error"] == ""], by_name[x], by_name[y], ax)

    def to_csv(self, path: str | Path) -> Path:
        """Write `frame` as CSV, the evaluation's number first."""
        with replacing(path) as unfinished:
            self.frame.to_csv(unfinished, index_label="evaluation")
        return Path(path)


def confirm(
    found: Front[S],
    held_out: Evaluator | Sequence[Evaluator] | Sequence[Question],
    storage: Storage,
    progress: bool = True,
) -> ConfirmedFront[S]:
    """Measure a front again; see `SearchResult.confirm`.

    Args:
        found: by the search.
        held_out: evaluators named as the objectives that they measure, or questions.
        storage: where the measurements are kept, in a study of their own for each set of evaluators.
        progress: show a bar.
    """
    evaluators = _evaluators(held_out)
    _require_objectives(evaluators, {o.name: o for o in found.objectives})
    records = measured(found.supernet, evaluators, found.genomes, storage, _STUDY, "Confirming", progress)
    names = [e.name for e in evaluators]
    frame = _frame(found.rows, records, found.objectives, names)
    return ConfirmedFront(found, frame, names)


def confirmed_before(found: Front[S], model: str, storage: Storage) -> list[ConfirmedFront[S]]:
    """What `confirm` has kept in `storage` of the rows of a front, one for each set of evaluators.

    Args:
        found: by the search.
        model: fingerprint of its super-network.
        storage: of the search.

    Raises:
        LedgerError: it cannot be read.
    """
    fronts = []
    for study in studies_of(storage, f"{_STUDY}-"):
        kept = read_ledger(storage, study)
        known = {o.name: (o.direction, o.unit) for o in found.objectives}
        if kept.model != model or any(known.get(name) != (way, unit) for name, way, unit in kept.objectives):
            continue
        by_genome = {record.genome: record for record in kept.records}
        records = [by_genome.get(tuple(genome.tolist())) for genome in found.genomes]
        rows = found.rows[[record is not None for record in records]]
        if len(rows):
            names = [name for name, _, _ in kept.objectives]
            again = [record for record in records if record is not None]
            fronts.append(ConfirmedFront(found, _frame(rows, again, found.objectives, names), names))
    return fronts


def _evaluators(held_out: Evaluator | Sequence[Evaluator] | Sequence[Question]) -> list[Evaluator]:
    if not isinstance(held_out, Sequence):
        return [held_out]
    questions = [q for q in held_out if isinstance(q, Question)]
    if questions and len(questions) == len(held_out):
        return [MultipleChoiceAccuracy(questions)]
    evaluators: list[Any] = list(held_out)
    return evaluators


def _require_objectives(evaluators: Sequence[Evaluator], objectives: dict[str, Objective]) -> None:
    if not evaluators:
        raise SelectionError("held_out is empty; give an evaluator, or questions.")
    for e in evaluators:
        known = objectives.get(e.name)
        if known is None:
            raise SelectionError(f"{e.name!r} is no objective of this search; it has {', '.join(objectives)}.")
        if (known.direction, known.unit) != (e.direction, e.unit):
            raise SelectionError(
                f"{e.name} is to {known.direction} in {known.unit or 'no unit'} in the search, "
                f"and to {e.direction} in {e.unit or 'no unit'} here."
            )


def _frame(
    rows: pd.DataFrame, records: Sequence[Record], objectives: Sequence[Objective], confirmed: Sequence[str]
) -> pd.DataFrame:
    frame = rows.copy()
    for i, name in enumerate(confirmed):
        again = [r.measurements[i] if r.measurements else None for r in records]
        frame[f"{name}_search"], frame[f"{name}_search_stderr"] = rows[name], rows[f"{name}_stderr"]
        frame[name] = [np.nan if m is None else m.value for m in again]
        frame[f"{name}_stderr"] = [np.nan if m is None else m.stderr for m in again]
        if f"{name}_n" in frame:
            frame[f"{name}_n"] = [0 if m is None else m.n for m in again]
    frame["error"] = [r.error for r in records]
    optimized = [o for o in objectives if o.optimized]
    fine = (frame["error"] == "").to_numpy()
    names = [o.name for o in optimized]
    values = frame.loc[fine, names].to_numpy(dtype=float) * np.array([o.sign for o in optimized])
    stderrs = frame.loc[fine, [f"{name}_stderr" for name in names]].to_numpy(dtype=float)
    on_front, beyond = (np.zeros(len(frame), dtype=bool) for _ in range(2))
    on_front[fine], beyond[fine] = non_dominated(values), dominated_beyond_error(values, stderrs)
    return frame.assign(on_front=on_front, dominated_beyond_error=beyond)
