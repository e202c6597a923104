"""Figures of a search, for a paper's column or a slide: one message each, readable in grey."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

if TYPE_CHECKING:
    from evaluators import Direction

_COLUMN = (3.4, 2.6)  # inches: one column of a two-column paper
_FRONT, _DOMINATED, _CHOSEN = "#1f4e79", "#9a9a9a", "#c8502d"


class Column(Protocol):
    """An objective: its column, unit and direction."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def unit(self) -> str: ...  # noqa: D102
    @property
    def direction(self) -> Direction: ...  # noqa: D102


def plot_front(
    rows: pd.DataFrame,
    x: Column,
    y: Column,
    reference: pd.Series,
    chosen: pd.Series | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Objective `y` against `x`: the front of these two as a step line with standard errors, dominated points faint.

    Args:
        rows: evaluated sub-networks, with columns for both objectives and their `_stderr`.
        x: objective of the horizontal axis.
        y: objective of the vertical axis.
        reference: the row of the largest sub-network, drawn as a star.
        chosen: a row to ring and label.
        ax: where to draw; None makes a figure of a paper's column width.
    """
    ax = ax or _new_axes()
    front = _front_of(rows, x, y)
    others = rows.drop(front.index)
    ax.scatter(others[x.name], others[y.name], s=9, color=_DOMINATED, alpha=0.5, linewidths=0, label="dominated")
    where: Literal["post", "pre"] = "post" if x.direction == "minimize" else "pre"
    ax.step(front[x.name], front[y.name], where=where, color=_FRONT, linewidth=1.2, zorder=3)
    ax.errorbar(
        front[x.name],
        front[y.name],
        xerr=_errors(front, x),
        yerr=_errors(front, y),
        fmt="o",
        markersize=3.5,
        color=_FRONT,
        elinewidth=0.6,
        capsize=1.5,
        zorder=4,
        label="Pareto front",
    )
    ax.scatter(reference[x.name], reference[y.name], marker="*", s=90, color="black", zorder=5, label="largest")
    if chosen is not None:
        ax.scatter(
            chosen[x.name],
            chosen[y.name],
            s=75,
            facecolors="none",
            edgecolors=_CHOSEN,
            linewidths=1.5,
            zorder=6,
            label="chosen",
        )
    ax.set_xlabel(_label(x), fontsize=9)
    ax.set_ylabel(_label(y), fontsize=9)
    ax.grid(alpha=0.25, linewidth=0.5)
    ax.margins(0.08)
    # Above the axes the legend covers no point.
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=7, frameon=False, handletextpad=0.2,
              columnspacing=0.8)  # fmt: skip
    return ax


def plot_hypervolume(hypervolume: pd.Series, ax: Axes | None = None) -> Axes:
    """Normalized hypervolume over evaluations.

    Args:
        hypervolume: as `SearchResult.hypervolume` gives it.
        ax: where to draw; None makes a figure.
    """
    ax = ax or _new_axes()
    ax.step(hypervolume.index, hypervolume, where="post", color=_FRONT, linewidth=1.4)
    ax.set_xlabel("evaluations", fontsize=9)
    ax.set_ylabel("hypervolume (normalized)", fontsize=9)
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.25, linewidth=0.5)
    return ax


def _new_axes() -> Axes:
    _, ax = plt.subplots(figsize=_COLUMN, dpi=150, layout="constrained")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.tick_params(labelsize=8)
    return ax


def _front_of(rows: pd.DataFrame, x: Column, y: Column) -> pd.DataFrame:
    """The rows that no other dominates in these two objectives, from left to right."""
    ordered = rows.sort_values(
        [x.name, y.name], ascending=[x.direction == "minimize", y.direction == "minimize"], kind="stable"
    )
    signed = ordered[y.name].to_numpy() * (1 if y.direction == "minimize" else -1)
    best_before = np.minimum.accumulate(np.concatenate([[np.inf], signed[:-1]]))
    return ordered[signed < best_before].sort_values(x.name, kind="stable")


def _errors(rows: pd.DataFrame, column: Column) -> pd.Series | None:
    errors = rows[f"{column.name}_stderr"]
    return errors if (errors > 0).any() else None


def _label(column: Column) -> str:
    return f"{column.name} ({column.unit})" if column.unit else column.name
