"""A result's front as figures that answer to the pointer, for notebooks and the page of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import pandas as pd

from nas_engine.errors import SelectionError
from nas_engine.execution.measuring import Searchable
from nas_engine.ledger.ledger import Record
from nas_engine.plots.configurations import kinds_of
from nas_engine.plots.interactive_front import Figure, Marked, front_figure, hover_text, progress_figure
from nas_engine.results.table import Objective


class Drawable(Protocol):
    """What of a `SearchResult` is drawn."""

    @property
    def frame(self) -> pd.DataFrame: ...  # noqa: D102
    @property
    def objectives(self) -> Sequence[Objective]: ...  # noqa: D102
    @property
    def records(self) -> Sequence[Record]: ...  # noqa: D102
    @property
    def supernet(self) -> Searchable[Any]: ...  # noqa: D102
    @property
    def reference(self) -> pd.Series: ...  # noqa: D102


def measured_rows(result: Drawable) -> pd.DataFrame:
    """The rows of a result whose evaluation did not fail."""
    return result.frame[result.frame["error"] == ""]


def hover_texts(result: Drawable) -> dict[int, str]:
    """What each measured sub-network says when it is pointed at, by evaluation."""
    space = result.supernet.space
    kinds = kinds_of(space)
    return {
        int(number): hover_text(row, result.objectives, space.configuration(result.records[number - 1].genome), kinds)
        for number, row in measured_rows(result).iterrows()
    }


def axes_of(result: Drawable) -> tuple[Objective | None, Objective]:
    """The objectives to begin with, horizontal and vertical: of a single one None and that one.

    What is to be large stands on the vertical axis, beside the first other that is optimized.
    """
    optimized = [o for o in result.objectives if o.optimized] or list(result.objectives)
    y = next((o for o in optimized if o.direction == "maximize"), optimized[0])
    others = [o for o in (*optimized, *result.objectives) if o.name != y.name]
    return (others[0] if others else None), y


def figure_of(
    result: Drawable,
    x: Objective | None,
    y: Objective,
    marked: Marked,
    texts: dict[int, str] | None = None,
) -> Figure:
    """The front of two objectives, or of a single one what it was over evaluations."""
    rows = measured_rows(result)
    return progress_figure(rows, y, texts) if x is None else front_figure(rows, x, y, marked, texts)


def figures_to_show(result: Drawable, chosen: pd.Series | None = None) -> dict[str, Figure]:
    """A figure for every two objectives, the one to begin with first."""
    first_x, first_y = axes_of(result)
    marked, texts = Marked(largest_of(result), chosen), hover_texts(result)
    if first_x is None:
        return {first_y.name: figure_of(result, None, first_y, marked, texts)}
    others = [(a, b) for i, b in enumerate(result.objectives) for a in result.objectives[i + 1 :]]
    pairs = [(first_x, first_y), *(p for p in others if {p[0], p[1]} != {first_x, first_y})]
    return {f"{y.name} over {x.name}": figure_of(result, x, y, marked, texts) for x, y in pairs}


def largest_of(result: Drawable) -> pd.Series | None:
    """The row of the largest sub-network; None where it was not measured."""
    try:
        return result.reference
    except SelectionError:
        return None
