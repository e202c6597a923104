"""Hypervolume over evaluations, of one search and of several beside each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from nas_engine.plots.axes import FRONT, Column, new_axes

_LINES = ("#1f4e79", "#c8502d", "#5a5a5a", "#7a9a3a", "#8a5aa0", "#111111")
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (2, 1)), (0, (8, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P")


def plot_hypervolume(
    hypervolume: pd.Series,
    ax: Axes | None = None,
    reference_point: Mapping[str, float] | None = None,
    objectives: Sequence[Column] = (),
) -> Axes:
    """Normalized hypervolume over evaluations.

    Args:
        hypervolume: as `SearchResult.hypervolume` gives it.
        ax: where to draw; None makes a figure.
        reference_point: from which it is measured, to be stated in the figure.
        objectives: for the units of `reference_point`.
    """
    ax = ax or new_axes()
    ax.step(hypervolume.index, hypervolume, where="post", color=FRONT, linewidth=1.4)
    _finish_hypervolume(ax, reference_point, objectives)
    return ax


def plot_comparison(
    curves: pd.DataFrame,
    several: Collection[str],
    reference_point: Mapping[str, float],
    objectives: Sequence[Column],
    ax: Axes | None = None,
) -> Axes:
    """Hypervolume over evaluations, a line a label, told apart by dashes and markers as well as by colour.

    Args:
        curves: as `Comparison.curves` gives it.
        several: labels of several runs, which get a band between their quartiles.
        reference_point: from which hypervolumes are measured, stated in the figure.
        objectives: for the units of `reference_point`.
        ax: where to draw; None makes a figure.
    """
    ax = ax or new_axes()
    labels = list(dict.fromkeys(curves.columns.get_level_values(0)))
    for i, label in enumerate(labels):
        colour, dashes, marker = (styles[i % len(styles)] for styles in (_LINES, _DASHES, _MARKERS))
        table = curves[label].dropna()
        if label in several:
            ax.fill_between(table.index, table["first"], table["third"], step="post", color=colour, alpha=0.18, lw=0)
        # A few markers each, at other places for each label, so that they do not hide one another.
        places = (max(1, len(table) // 8) * (i + 1) // (len(labels) + 1), max(1, len(table) // 8))
        ax.plot(
            table.index,
            table["median"],
            drawstyle="steps-post",
            color=colour,
            linestyle=dashes,
            linewidth=1.3,
            marker=marker,
            markersize=3.5,
            markevery=places,
            label=label,
        )
    _finish_hypervolume(ax, reference_point, objectives)
    if several:
        ax.set_title("median and quartiles over runs", fontsize=7, loc="left", color="#444444")
    return ax


def _finish_hypervolume(ax: Axes, point: Mapping[str, float] | None, objectives: Sequence[Column]) -> None:
    ax.set_xlabel("evaluations", fontsize=9)
    ax.set_ylabel("hypervolume (normalized)", fontsize=9)
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.25, linewidth=0.5)
    units = {o.name: f" {o.unit}" if o.unit else "" for o in objectives}
    lines = [f"{name} {value:.4g}{units.get(name, '')}" for name, value in (point or {}).items()]
    told = "\n".join(["from the point", *lines]) if lines else None
    handles, labels = ax.get_legend_handles_labels()
    if told or labels:  # "best": where it hides least of the curves
        legend = ax.legend(
            handles, labels, loc="best", fontsize=7, title=told, title_fontsize=6, frameon=False, handlelength=2.6
        )
        legend.get_title().set(color="#444444", multialignment="right")
