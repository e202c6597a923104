"""The result of a search: every evaluation as a table, the Pareto front, and the sub-network the user wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from evaluators import Evaluator, Question
from evaluators.whole_file import replacing
from nas_engine import plots
from nas_engine.errors import SelectionError
from nas_engine.execution.measuring import S, Searchable
from nas_engine.goal.constraints import Constraint, bound_of, parse_constraints
from nas_engine.goal.goal import positions_of
from nas_engine.ledger.ledger import LedgerContents, Record, read_ledger
from nas_engine.ledger.storage import Storage
from nas_engine.magnitude import LARGEST, relative
from nas_engine.plots.interactive_front import drawn
from nas_engine.results import exports, interactive
from nas_engine.results.confirmation import ConfirmedFront, Front, confirm, confirmed_before
from nas_engine.results.hypervolume import hypervolumes
from nas_engine.results.importance import gene_importance
from nas_engine.results.selection import best_row
from nas_engine.results.table import Objective, configuration_of, evaluation_table, row_of

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from matplotlib.axes import Axes
    from optuna.importance import BaseImportanceEvaluator

Rows = Literal["front", "all"]


class SearchResult(Generic[S]):
    """What `search` found.

    Args:
        supernet: gives the sub-networks of rows.
        objectives: the evaluators' columns.
        records: in the order of evaluation.
        constraints: what a row has to keep to be feasible, and so on the front.
        storage: where its ledger is; `confirm` keeps its measurements there too.

    Attributes:
        frame: one row a sub-network in the order of evaluation, indexed from 1: a column for every gene and objective,
            `<objective>_stderr`, `<objective>_n` (the samples that it rests on), `error`, empty unless the evaluation
            failed, `feasible` (measured, and every constraint kept) and `on_front`.
    """

    def __init__(
        self,
        supernet: Searchable[S],
        objectives: Sequence[Objective],
        records: Sequence[Record],
        constraints: Sequence[Constraint] = (),
        storage: Storage = None,
    ) -> None:
        self.supernet, self.objectives, self.constraints = supernet, tuple(objectives), tuple(constraints)
        self.records, self.storage = tuple(records), storage
        self.frame = evaluation_table(supernet.space, self.objectives, self.records, self.constraints)

    @classmethod
    def load(
        cls,
        storage: str | Path,
        supernet: Searchable[S] | None = None,
        objectives: Sequence[str] | None = None,
        constraints: Sequence[str] | None = None,
    ) -> SearchResult[S]:
        """A search as its ledger or a file of `to_json` holds it, its rows in the order in which they were measured.

        Args:
            storage: the run folder or database URL that the search was given, or a ``.json`` file.
            supernet: the one that was searched; without it there are the table, the front and the figures, and no
                sub-networks.
            objectives: as `search` takes them; None takes those of the file, and all of a ledger, which holds
                measurements and not what they were for.
            constraints: likewise; None takes those of the file, and none of a ledger.

        Raises:
            LedgerError: nothing to read there, or another super-network's.
            SearchError: an unknown objective, or a constraint that cannot be read.
        """
        is_file = str(storage).endswith(".json")
        saved = exports.read_json(storage) if is_file else exports.Saved(read_ledger(storage))
        found = saved.contents
        if supernet is not None:
            exports.require_same(found, supernet.space, supernet.fingerprint(), storage)
        searched = exports.WithoutSupernet(found.space, found.model) if supernet is None else supernet
        names = [name for name, _, _ in found.objectives]
        optimized = positions_of(saved.objectives if objectives is None else objectives, names)
        columns = [Objective(*described, i in optimized) for i, described in enumerate(found.objectives)]
        kept = parse_constraints(saved.constraints if constraints is None else constraints, names)
        return cls(searched, columns, found.records, kept, None if is_file else storage)

    def __len__(self) -> int:
        return len(self.frame)

    def __repr__(self) -> str:
        failed = int((self.frame["error"] != "").sum())
        return (
            f"SearchResult({len(self)} evaluations, {failed} failed, {len(self.front)} on the front of "
            f"{', '.join(o.name for o in self.objectives)})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>{self.front[[*self._names, *self._stderr_names]].to_html()}"

    @property
    def front(self) -> pd.DataFrame:
        """The rows that no other row dominates, sorted by the first objective."""
        return self.frame[self.frame["on_front"]].sort_values(self._names)

    @property
    def reference(self) -> pd.Series:
        """The row of the largest sub-network, which every driver evaluates first.

        Raises:
            SelectionError: its evaluation failed (the message says why).
        """
        rows = row_of(self.frame, self.supernet.space, self.supernet.space.largest)
        if rows.empty or rows.iloc[0]["error"]:
            why = "was not evaluated" if rows.empty else f"failed: {rows.iloc[0]['error']}"
            raise SelectionError(f"there is no reference: the largest sub-network {why}.")
        return rows.iloc[0]

    def reference_point(self) -> dict[str, float]:
        """Where the hypervolume is measured from: 10 % beyond the worse of the largest and the smallest sub-network, or
        beyond what a constraint allows, where that is less.

        Both are in the first generation of every driver, so that the point does not move while a search goes on.

        Raises:
            SelectionError: the evaluation of one of them failed.
        """
        ideal, nadir = self._anchors()
        with np.errstate(over="ignore"):
            point = np.clip(nadir + 0.1 * (nadir - ideal), -LARGEST, LARGEST)
        return {o.name: o.sign * float(x) for o, x in zip(self._optimized, point, strict=True)}

    def scale(self) -> dict[str, tuple[float, float]]:
        """The better and the worse of the largest and the smallest sub-network in each objective, the latter no worse
        than a constraint allows: 0 and 1 of the hypervolume's axes.

        Raises:
            SelectionError: the evaluation of one of them failed.
        """
        ends = zip(*self._anchors(), strict=True)
        return {
            o.name: (o.sign * float(ideal), o.sign * float(nadir))
            for o, (ideal, nadir) in zip(self._optimized, ends, strict=True)
        }

    def hypervolume(
        self,
        reference_point: dict[str, float] | None = None,
        scale: Mapping[str, tuple[float, float]] | None = None,
    ) -> pd.Series:
        """The hypervolume dominated after each evaluation, indexed as `frame`.

        Args:
            reference_point: a value for each objective; None takes `reference_point()`.
            scale: what counts as 0 and as 1 of each objective; None takes `scale()`.

        Raises:
            SelectionError: as `reference_point`, or an objective is missing in the given one.
        """
        ends = self.scale() if scale is None else scale
        ideal, nadir = (np.array([o.sign * ends[o.name][end] for o in self._optimized]) for end in (0, 1))
        point = self.reference_point() if reference_point is None else reference_point
        missing = [name for name in (o.name for o in self._optimized) if name not in point]
        if missing:
            raise SelectionError(
                f"reference_point lacks {missing[0]!r}; give {', '.join(o.name for o in self._optimized)}."
            )
        signed = np.array([o.sign * point[o.name] for o in self._optimized])
        scaled = relative(self._minimized(), ideal, nadir)  # (evaluations, objectives)
        volumes = hypervolumes(scaled, self.frame["feasible"].to_numpy(), relative(signed, ideal, nadir))
        return pd.Series(volumes, index=self.frame.index, name="hypervolume")

    def best(self, minimize: str | None = None, maximize: str | None = None, where: str | None = None) -> pd.Series:
        """The row that is best in one objective among those that meet a condition.

        Args:
            minimize: the objective to be small; give this or `maximize`.
            maximize: the objective to be large.
            where: a condition on objectives as pandas' `query` takes it, in which ``reference.<objective>`` is the
                largest sub-network's value: ``"accuracy >= 0.99 * reference.accuracy"``.

        Raises:
            SelectionError: not exactly one objective, an unknown one, a condition that cannot be read, or that nothing
                meets (the ranges that there are, are named).
        """
        return best_row(self.frame, self._names, minimize, maximize, where, self.constraints, lambda: self.reference)

    def select(self, minimize: str | None = None, maximize: str | None = None, where: str | None = None) -> S:
        """The sub-network of `best`, with the same arguments, ready for `save_pretrained`.

        Raises:
            SelectionError: as `best`.
        """
        return self.subnetwork(self.best(minimize, maximize, where))

    def subnetwork(self, row: pd.Series) -> S:
        """The sub-network of a row of `frame` or `front`."""
        return self.supernet.subnetwork(configuration_of(row, self.supernet.space))

    def plot(self, x: str, y: str, ax: Axes | None = None, chosen: pd.Series | None = None) -> Axes:
        """Draw objective `y` against `x`; see `nas_engine.plots.plot_front`.

        Args:
            chosen: a row, such as `best` gives, to be labelled.

        Raises:
            SelectionError: an unknown objective.
        """
        rows = self.frame[self.frame["error"] == ""]
        return plots.plot_front(rows, self._objective(x), self._objective(y), self.reference, chosen, ax)

    def show(self, chosen: pd.Series | None = None) -> go.Figure:
        """The front as a figure that answers to the pointer, as a notebook shows it and `nas-engine report` draws it.

        A menu chooses two of several objectives; a point says its configuration.

        Args:
            chosen: a row, such as `best` gives, to be labelled.

        Raises:
            SelectionError: plotly is not installed.
        """
        return drawn(interactive.figures_to_show(self, chosen))

    def plot_hypervolume(self, ax: Axes | None = None) -> Axes:
        """Draw the hypervolume over evaluations, measured from `reference_point`."""
        return plots.plot_hypervolume(self.hypervolume(), ax, self.reference_point(), self.objectives)

    def gene_importance(self, objective: str, evaluator: BaseImportanceEvaluator | None = None) -> pd.Series:
        """How much each gene moves an objective among the rows of this search; see `nas_engine.results.importance`.

        Args:
            objective: its name.
            evaluator: any of Optuna's importance evaluators; None takes the default of `nas_engine.results.importance`.

        Returns:
            Shares by gene name that add up to 1, the largest first.

        Raises:
            SelectionError: an unknown objective, or too few rows.
        """
        maximize = self._objective(objective).sign < 0
        return gene_importance(self.frame, self.supernet.space, objective, evaluator, maximize)

    def plot_importance(
        self, objective: str, ax: Axes | None = None, evaluator: BaseImportanceEvaluator | None = None
    ) -> Axes:
        """Draw `gene_importance` as a map of dimension by layer."""
        shares = self.gene_importance(objective, evaluator)
        return plots.plot_importance(plots.layer_table(shares, self.supernet.space), objective, ax)

    def confirm(
        self,
        held_out: Evaluator | Sequence[Evaluator] | Sequence[Question],
        storage: Storage = None,
        progress: bool = True,
    ) -> ConfirmedFront[S]:
        """Measure the front again on held-out data, and see which of its rows still are on it.

        Every measurement is kept beside the search's ledger: killed and called again, it goes on where it was.

        Args:
            held_out: evaluators named as the objectives that they measure again, or questions for the objective
                `accuracy`; the other objectives keep the search's values.
            storage: where to keep the measurements; None keeps them in the search's own storage.
            progress: show a bar.

        Raises:
            SelectionError: an evaluator that belongs to no objective, or a result opened without its super-network.
            LedgerError: the storage cannot be written.
        """
        return confirm(self._found(), held_out, storage or self.storage, progress)

    def confirmed(self) -> list[ConfirmedFront[S]]:
        """What `confirm` has kept beside the search's ledger before, one for each set of evaluators.

        Raises:
            LedgerError: the storage cannot be read.
        """
        return confirmed_before(self._found(), self.supernet.fingerprint(), self.storage)

    def _found(self) -> Front[S]:
        genomes = [np.array(self.records[number - 1].genome) for number in self.front.index]
        return Front(self.supernet, self.objectives, self.front, genomes)

    def to_csv(self, path: str | Path, rows: Rows = "front") -> Path:
        """Write the front, or all rows, as CSV, the evaluation's number first."""
        with replacing(path) as unfinished:
            self._exported(rows).to_csv(unfinished, index_label="evaluation")
        return Path(path)

    def to_parquet(self, path: str | Path, rows: Rows = "all") -> Path:
        """Write all rows, or the front, as Parquet, the evaluation's number as index.

        Raises:
            SelectionError: pyarrow is not installed.
        """
        return exports.write_parquet(self._exported(rows), path)

    def to_json(self, path: str | Path) -> Path:
        """Write everything as JSON: space, objectives, constraints and records, from which `load` makes it again."""
        objectives = tuple((o.name, o.direction, o.unit) for o in self.objectives)
        contents = LedgerContents(self.supernet.space, self.supernet.fingerprint(), objectives, self.records)
        optimized, constraints = (o.name for o in self._optimized), (c.text for c in self.constraints)
        return exports.write_json(exports.Saved(contents, tuple(optimized), tuple(constraints)), path)

    def _exported(self, rows: Rows) -> pd.DataFrame:
        if rows not in ("front", "all"):
            raise SelectionError(f"rows is {rows!r}; choose 'front' or 'all'.")
        return self.frame if rows == "all" else self.front.drop(columns=["error", "feasible", "on_front"])

    def _objective(self, name: str) -> Objective:
        by_name = {o.name: o for o in self.objectives}
        if name not in by_name:
            raise SelectionError(f"{name!r} is no objective; choose from {', '.join(by_name)}.")
        return by_name[name]

    @property
    def _optimized(self) -> list[Objective]:
        return [o for o in self.objectives if o.optimized]

    @property
    def _names(self) -> list[str]:
        return [o.name for o in self.objectives]

    @property
    def _stderr_names(self) -> list[str]:
        return [f"{name}_stderr" for name in self._names]

    def _minimized(self) -> npt.NDArray[np.float64]:
        signs, names = np.array([o.sign for o in self._optimized]), [o.name for o in self._optimized]
        values: npt.NDArray[np.float64] = self.frame[names].to_numpy(dtype=float) * signs
        return values

    def _anchors(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The better and the worse of largest and smallest sub-network, each of shape (objectives,), minimized. What no
        sub-network may be, the worse is not.
        """
        rows = row_of(self.frame, self.supernet.space, self.supernet.space.smallest)
        if rows.empty or rows.iloc[0]["error"]:
            raise SelectionError("the smallest sub-network was not measured; a hypervolume needs it for its scale.")
        signs, names = np.array([o.sign for o in self._optimized]), [o.name for o in self._optimized]
        both = np.vstack([self.reference[names], rows.iloc[0][names]]).astype(float) * signs
        ideal, nadir = both.min(axis=0), both.max(axis=0)
        for constraint in self.constraints:
            bound = bound_of(constraint, self.reference)
            for i, objective in enumerate(self._optimized):
                limits = constraint.name == objective.name and constraint.at_most == (objective.sign > 0)
                if limits and ideal[i] < objective.sign * bound < nadir[i]:
                    nadir[i] = objective.sign * bound
        # Where both are equal any scale would do; one unit keeps the division defined.
        return ideal, np.where(nadir > ideal, nadir, ideal + 1.0)
