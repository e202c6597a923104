"""A front on held-out data, beside what the search had seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nas_engine.plots.axes import (
    CHOSEN,
    DOMINATED,
    FRONT,
    Column,
    drawable,
    errors_of,
    finished,
    label_of,
    new_axes,
)


def plot_confirmed(rows: pd.DataFrame, x: Column, y: Column, ax: Axes | None = None) -> Axes:
    """Objective `y` against `x` on held-out data; a thin line leads to each row from where the search had seen it.

    Args:
        rows: as `ConfirmedFront.frame`, measured ones alone.
        x: objective of the horizontal axis.
        y: objective of the vertical axis.
        ax: where to draw; None makes a figure.
    """
    ax = ax or new_axes()
    rows = drawable(rows, x, y)
    before = {c.name: rows[f"{c.name}_search"] if f"{c.name}_search" in rows else rows[c.name] for c in (x, y)}
    ax.plot(
        np.vstack([before[x.name], rows[x.name]]),
        np.vstack([before[y.name], rows[y.name]]),
        color=DOMINATED,
        linewidth=0.7,
        zorder=1,
    )
    hollow: dict[str, Any] = {"s": 12, "facecolors": "white", "edgecolors": DOMINATED, "linewidths": 0.8}
    ax.scatter(before[x.name], before[y.name], zorder=2, label="in the search", **hollow)
    still, beyond = rows["on_front"], rows["dominated_beyond_error"]
    for mask, marker, colour, label in (
        (still, "o", FRONT, "on the front"),
        (~still & ~beyond, "v", "#7f9fbf", "within the errors"),
        (beyond, "x", CHOSEN, "no longer"),
    ):
        shown = rows[mask]
        if len(shown):
            ax.errorbar(
                shown[x.name],
                shown[y.name],
                xerr=errors_of(shown, x),
                yerr=errors_of(shown, y),
                fmt=marker,
                markersize=4,
                color=colour,
                elinewidth=0.6,
                capsize=1.5,
                zorder=4,
                label=label,
            )
    return finished(
        ax, label_of(x), f"{label_of(y)}, held out" if f"{y.name}_search" in rows else label_of(y), columns=2
    )
