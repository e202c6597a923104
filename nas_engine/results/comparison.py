"""Several searches beside each other, measured from one common reference point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from nas_engine import plots
from nas_engine.arrays import Array
from nas_engine.errors import SelectionError
from nas_engine.results.dominance import covered, non_dominated

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nas_engine.results.result import SearchResult
    from nas_engine.results.table import Objective


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Args:
        frame: one row a run, with its `label` and `run` (counted from 1 within the label), `evaluations`, `failed`,
            `front` (rows on it), `hypervolume` (dominated at the end) and `coverage` (the fraction of the front rows of
            all runs of other labels that this run's front dominates or equals, mean over those runs; NaN where there
            are none).
        coverage: the same for every pair of labels, mean over their runs: row A, column B is the fraction of B's
            front that A's dominates or equals.
        reference_point: from which all hypervolumes are measured, a value for each objective.
        scale: the better and the worse end of each objective, which are 0 and 1 of the hypervolume's axes.
    """

    frame: pd.DataFrame
    coverage: pd.DataFrame
    reference_point: dict[str, float]
    scale: dict[str, tuple[float, float]]
    _curves: dict[str, list[pd.Series]] = field(repr=False)
    _objectives: tuple[Objective, ...] = field(repr=False)

    def curves(self) -> pd.DataFrame:
        """The hypervolume over evaluations: first quartile, median and third quartile over the runs of each label.

        Indexed by evaluation, columns (label, ``first``, ``median`` or ``third``); a label ends with its shortest run.
        """
        columns = {}
        for label, runs in self._curves.items():
            table = pd.concat(runs, axis=1).dropna()  # (evaluations, runs)
            for name, quantile in (("first", 0.25), ("median", 0.5), ("third", 0.75)):
                columns[label, name] = table.quantile(quantile, axis=1)
        return pd.DataFrame(columns).rename_axis("evaluation")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw `curves`: a line a label, with its quartiles where it has several runs."""
        several = {label for label, runs in self._curves.items() if len(runs) > 1}
        return plots.plot_comparison(self.curves(), several, self.reference_point, self._objectives, ax)

    def _repr_html_(self) -> str:
        point = ", ".join(f"{name} {value:.4g}" for name, value in self.reference_point.items())
        return f"<p>Hypervolumes from {point}</p>{self.frame.to_html(index=False)}"


def compare(
    results: Sequence[SearchResult[Any]],
    labels: Sequence[str],
    reference_point: dict[str, float] | None = None,
) -> Comparison:
    """Compare searches of the same objectives: several drivers, spaces or seeds.

    Args:
        results: of the searches.
        labels: one a result; runs with the same label, such as those of several seeds, are summed up together.
        reference_point: a value for each objective; None takes the worst of the results' own reference points.

    Raises:
        SelectionError: no results, labels that do not match them, or results with other objectives.
    """
    objectives = _shared_objectives(results, labels)
    scale = _scale(results, objectives)
    if reference_point is None:
        points = [result.reference_point() for result in results]
        reference_point = {o.name: o.sign * max(o.sign * point[o.name] for point in points) for o in objectives}
    curves = [result.hypervolume(reference_point, scale) for result in results]
    fronts = [_front(result, objectives) for result in results]
    pairs = np.array([[covered(other, front) for other in fronts] for front in fronts])  # (runs, runs)
    names = pd.Series(labels)
    other_label = names.to_numpy()[:, None] != names.to_numpy()[None, :]
    frame = pd.DataFrame(
        {
            "label": names,
            "run": names.groupby(names).cumcount() + 1,
            "evaluations": [len(result) for result in results],
            "failed": [int((result.frame["error"] != "").sum()) for result in results],
            "front": [int(result.frame["on_front"].sum()) for result in results],
            "hypervolume": [curve.iloc[-1] for curve in curves],
            "coverage": [_mean(row[others]) for row, others in zip(pairs, other_label, strict=True)],
        }
    )
    by_label = {label: [c for c, own in zip(curves, labels, strict=True) if own == label] for label in labels}
    return Comparison(frame, _by_label(pairs, names), reference_point, scale, by_label, objectives)


def _shared_objectives(results: Sequence[SearchResult[Any]], labels: Sequence[str]) -> tuple[Objective, ...]:
    if not results or len(results) != len(labels):
        raise SelectionError(f"there are {len(results)} results and {len(labels)} labels; give one label a result.")
    first, *others = ([o for o in result.objectives if o.optimized] for result in results)
    for label, other in zip(labels[1:], others, strict=True):
        if [(o.name, o.direction, o.unit) for o in other] != [(o.name, o.direction, o.unit) for o in first]:
            raise SelectionError(
                f"{label} has the objectives {', '.join(o.name for o in other)}, and {labels[0]} has "
                f"{', '.join(o.name for o in first)}; compare searches with the same objectives, in the same order."
            )
    return tuple(first)


def _scale(results: Sequence[SearchResult[Any]], objectives: Sequence[Objective]) -> dict[str, tuple[float, float]]:
    """The best and the worst of each objective at the largest and the smallest sub-networks of all results."""
    ends = [result.scale() for result in results]
    return {
        o.name: (
            o.sign * min(o.sign * end[o.name][0] for end in ends),
            o.sign * max(o.sign * end[o.name][1] for end in ends),
        )
        for o in objectives
    }


def _front(result: SearchResult[Any], objectives: Sequence[Objective]) -> Array:
    """Shape (rows, objectives), to be minimized."""
    values = result.front[[o.name for o in objectives]].to_numpy(dtype=float) * np.array([o.sign for o in objectives])
    front: Array = values[non_dominated(values)]
    return front


def _by_label(pairs: Array, names: pd.Series) -> pd.DataFrame:
    labels = list(dict.fromkeys(names))
    masks = {label: (names == label).to_numpy() for label in labels}
    table = [[_mean(pairs[np.ix_(masks[a], masks[b])]) if a != b else np.nan for b in labels] for a in labels]
    return pd.DataFrame(table, index=pd.Index(labels, name="covers"), columns=pd.Index(labels, name="covered"))


def _mean(values: Array) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
