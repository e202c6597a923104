"""The Pareto front of two objectives."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from evaluators.protocol import sign_of
from nas_engine.plots.axes import (
    CHOSEN,
    DOMINATED,
    FRONT,
    REFERENCE,
    Column,
    at_the_edge,
    drawable,
    errors_of,
    finished,
    label_of,
    legend_above,
    missing_label,
    new_axes,
    windows_of,
)


def plot_front(
    rows: pd.DataFrame,
    x: Column,
    y: Column,
    reference: pd.Series,
    chosen: pd.Series | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Objective `y` against `x`: the front of these two as a step line with standard errors, dominated points faint.

    An axis is logarithmic where what is kept spans magnitudes; what breaks a constraint by far is drawn at its edge.

    Args:
        rows: evaluated sub-networks, with columns for both objectives and their `_stderr`; where `feasible` is False
            they break a constraint, and are drawn as crosses.
        x: objective of the horizontal axis.
        y: objective of the vertical axis.
        reference: the row of the largest sub-network, drawn as a star.
        chosen: a row to ring and label.
        ax: where to draw; None makes a figure of a paper's column width.
    """
    ax = ax or new_axes()
    rows, reference = drawable(rows, x, y), drawable(reference, x, y)
    chosen = None if chosen is None else drawable(chosen, x, y)
    keeps = rows["feasible"] if "feasible" in rows else pd.Series(True, index=rows.index)
    front = front_of(rows[keeps], x, y)
    kept = pd.DataFrame({c.name: [*rows[keeps][c.name], reference[c.name]] for c in (x, y)}, dtype=float)
    windows = windows_of(kept, x, y)
    others, (missing, beyond) = rows[keeps].drop(front.index), at_the_edge(rows[~keeps], windows)
    ax.set(**{f"{axis}scale": "log" for axis, c in (("x", x), ("y", y)) if windows[c.name].logarithmic})
    ax.scatter(others[x.name], others[y.name], s=9, color=DOMINATED, alpha=0.5, linewidths=0, label="dominated")
    if len(missing):
        ax.scatter(missing[x.name], missing[y.name], s=12, marker="x", color=DOMINATED, alpha=0.6, linewidths=0.7,
                   label=missing_label(beyond))  # fmt: skip
    where: Literal["post", "pre"] = "post" if sign_of(x.direction) > 0 else "pre"
    ax.step(front[x.name], front[y.name], where=where, color=FRONT, linewidth=1.2, zorder=3)
    ax.errorbar(
        front[x.name],
        front[y.name],
        xerr=errors_of(front, x),
        yerr=errors_of(front, y),
        fmt="o",
        markersize=3.5,
        color=FRONT,
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
            edgecolors=CHOSEN,
            linewidths=1.5,
            zorder=6,
            label="chosen",
        )
    return finished(ax, label_of(x), label_of(y), columns=3 if len(missing) else 4)


def mark_reference(ax: Axes, x: float, y: float, label: str = REFERENCE) -> Axes:
    """Add what a user would otherwise have to a figure of `plot_front`."""
    ax.scatter(x, y, marker="*", s=90, facecolors="white", edgecolors="black", linewidths=1.0, zorder=5, label=label)
    legend_above(ax, 3)
    return ax


def front_of(rows: pd.DataFrame, x: Column, y: Column) -> pd.DataFrame:
    """The rows that no other dominates in these two objectives, from left to right."""
    signed = rows[[x.name, y.name]] * [sign_of(x.direction), sign_of(y.direction)]
    signed = signed.sort_values([x.name, y.name], kind="stable")
    best_before = signed[y.name].cummin().shift(fill_value=np.inf)
    return rows.loc[signed.index[signed[y.name] < best_before]].sort_values(x.name, kind="stable")
