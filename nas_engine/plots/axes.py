"""What all figures share: columns, colours, axes and legends, for a paper's column or a slide, readable in grey."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from evaluators.whole_file import replacing

if TYPE_CHECKING:
    from pathlib import Path

    from evaluators import Direction

_Rows = TypeVar("_Rows", pd.DataFrame, pd.Series)
_DRAWN = 1e100  # beyond which sizes are drawn alike
_MAGNITUDES = 1000.0  # times the least value, beyond which an axis is logarithmic
_MOST_DECADES = 300.0  # of a number
_FAR, _ROOM = 10.0, 0.25  # times the length of what is shown: what is far away, and where that is drawn instead
_COLUMN = (3.4, 2.6)  # inches: one column of a two-column paper
REFERENCE = "plain LoRA"  # what a user would have without this project, where nothing else is said
FRONT, DOMINATED, CHOSEN = "#1f4e79", "#9a9a9a", "#c8502d"


class Column(Protocol):
    """An objective: its column, unit and direction."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def unit(self) -> str: ...  # noqa: D102
    @property
    def direction(self) -> Direction: ...  # noqa: D102


def finished(ax: Axes, x: str, y: str, columns: int) -> Axes:
    """`ax` with its labels, a faint grid, a margin, and a legend of so many columns."""
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.grid(alpha=0.25, linewidth=0.5)
    ax.margins(0.08)
    legend_above(ax, columns)
    return ax


def legend_above(ax: Axes, columns: int) -> None:
    """A legend above the axes, where it covers no point."""
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, fontsize=7, frameon=False,
              handletextpad=0.2, columnspacing=0.8)  # fmt: skip


def save(ax: Axes, file: Path, close: bool = False) -> Path:
    """Write the figure of `ax` for print; with `close` nobody will show it, and it is let go."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    with replacing(file) as unfinished:
        figure.savefig(unfinished, dpi=300)
    if close:
        plt.close(figure)
    return file


def new_axes(height: float = _COLUMN[1]) -> Axes:
    """Axes of a figure as wide as a column of a paper, `height` inches high."""
    _, ax = plt.subplots(figsize=(_COLUMN[0], height), dpi=150, layout="constrained")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.tick_params(labelsize=8)
    return ax


def drawable(rows: _Rows, *columns: Column) -> _Rows:
    """A copy in which no value is so large that the ends of an axis, or their difference, would be no number, on a
    logarithmic axis neither.
    """
    drawn = rows.copy()
    for name in (f"{c.name}{what}" for c in columns for what in ("", "_stderr", "_search")):
        if name in drawn:
            drawn[name] = np.clip(drawn[name], -_DRAWN, _DRAWN)
    return drawn


@dataclass(frozen=True)
class Window:
    """What of an objective a figure has to show.

    Args:
        least: of what is kept.
        most: of it.
        logarithmic: whether values span magnitudes.
    """

    least: float
    most: float
    logarithmic: bool

    @classmethod
    def around(cls, values: pd.Series) -> Window:
        """All of `values`."""
        least, most = float(values.min()), float(values.max())
        return cls(least, most, least > 1 / _DRAWN and most / _MAGNITUDES > least)

    def beyond(self, values: pd.Series) -> pd.Series:
        """Which of `values` lie so far away that beside them all that is kept might be a single line."""
        least, most = self._widened(_FAR)
        return (values < least) | (values > most)

    def placed(self, values: pd.Series) -> pd.Series:
        """`values` with those that are `beyond` a little outside of all others."""
        near = values[~self.beyond(values)]
        shown = Window(min([self.least, *near]), max([self.most, *near]), self.logarithmic)
        least, most = shown._widened(_ROOM)
        return values.clip(least, most)

    def _widened(self, times: float) -> tuple[float, float]:
        """Its ends, each so many times its length further out."""
        if self.logarithmic:
            least, most = math.log10(self.least), math.log10(self.most)
            room = times * (most - least)
            return 10.0 ** max(least - room, -_MOST_DECADES), 10.0 ** min(most + room, _MOST_DECADES)
        room = times * (self.most - self.least or abs(self.most) or 1.0)
        return self.least - room, self.most + room


def windows_of(kept: pd.DataFrame, *columns: Column) -> dict[str, Window]:
    """By objective; none where nothing is `kept`."""
    return {column.name: Window.around(kept[column.name]) for column in columns} if len(kept) else {}


def at_the_edge(rows: pd.DataFrame, windows: Mapping[str, Window]) -> tuple[pd.DataFrame, int]:
    """`rows` with what lies far beyond a window at the edge of the figure, and how many do."""
    moved, beyond = rows.copy(), pd.Series(False, index=rows.index)
    for name, window in windows.items():
        beyond |= window.beyond(rows[name])
        moved[name] = window.placed(rows[name])
    return moved, int(beyond.sum())


def missing_label(beyond: int) -> str:
    """What sub-networks are called that break a constraint, of which so many are drawn at the edge."""
    return "breaks a constraint" + (f" ({beyond} off scale)" if beyond else "")


def errors_of(rows: pd.DataFrame, column: Column) -> pd.Series | None:
    """The standard errors of an objective; None where it has none."""
    errors = rows[f"{column.name}_stderr"]
    return errors if (errors > 0).any() else None


def label_of(column: Column) -> str:
    """An objective's name with its unit."""
    return f"{column.name} ({column.unit})" if column.unit else column.name
