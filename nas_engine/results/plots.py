"""Figures of a search, for a paper's column or a slide: one message each, readable in grey."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import MaxNLocator

from evaluators.whole_file import replacing
from nas_engine.magnitude import LARGEST
from nas_engine.results.importance import layer_table

if TYPE_CHECKING:
    from pathlib import Path

    from evaluators import Direction, Measurement
    from search_spaces import SearchSpace

_Rows = TypeVar("_Rows", pd.DataFrame, pd.Series)
_DECADES_SHOWN = 1e-4  # of the largest, on a logarithmic scale
_COLUMN = (3.4, 2.6)  # inches: one column of a two-column paper
_LINES = ("#1f4e79", "#c8502d", "#5a5a5a", "#7a9a3a", "#8a5aa0", "#111111")
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (2, 1)), (0, (8, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P")
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
    rows, reference = _drawable(rows, x, y), _drawable(reference, x, y)
    chosen = None if chosen is None else _drawable(chosen, x, y)
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


def mark_reference(ax: Axes, x: float, y: float, label: str = "plain LoRA") -> Axes:
    """Add what a user would otherwise have to a figure of `plot_front`."""
    ax.scatter(x, y, marker="*", s=90, facecolors="white", edgecolors="black", linewidths=1.0, zorder=5, label=label)
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=7, frameon=False,
              handletextpad=0.2, columnspacing=0.8)  # fmt: skip
    return ax


def plot_healed(finalists: pd.DataFrame, reference: Measurement, ax: Axes | None = None) -> Axes:
    """Accuracy over speed-up of finalists before and after healing, with the reference at a speed-up of 1.

    Args:
        finalists: as `nas_engine.jobs.finalists.table` gives it, the chosen one first.
        reference: the accuracy of plain LoRA on the same questions.
        ax: where to draw; None makes a figure.
    """
    ax = ax or _new_axes()
    ax.axhline(reference.value, color="black", linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
    ax.errorbar(1.0, reference.value, yerr=reference.stderr, fmt="*", markersize=10, color="black", elinewidth=0.6,
                capsize=1.5, label="plain LoRA")  # fmt: skip
    ordered = finalists.sort_values("speedup")
    styles: tuple[tuple[str, dict[str, Any]], ...] = (
        ("unhealed", {"fmt": "o--", "markerfacecolor": "white", "color": _DOMINATED, "label": "before healing"}),
        ("accuracy", {"fmt": "o-", "color": _FRONT, "label": "healed"}),
    )
    for column, style in styles:
        ax.errorbar(ordered["speedup"], ordered[column], yerr=ordered[f"{column}_stderr"], markersize=4,
                    linewidth=1.1, elinewidth=0.6, capsize=1.5, **style)  # fmt: skip
    chosen = finalists.iloc[0]
    ax.scatter(chosen["speedup"], chosen["accuracy"], s=75, facecolors="none", edgecolors=_CHOSEN, linewidths=1.5,
               zorder=6, label="chosen")  # fmt: skip
    ax.set_xlabel("speed-up over the whole model", fontsize=9)
    ax.set_ylabel("accuracy", fontsize=9)
    ax.grid(alpha=0.25, linewidth=0.5)
    ax.margins(0.08)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=7, frameon=False, handletextpad=0.2,
              columnspacing=0.8)  # fmt: skip
    return ax


def save(ax: Axes, file: Path) -> Path:
    """Write the figure of `ax` for print."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    with replacing(file) as unfinished:
        figure.savefig(unfinished, dpi=300)
    return file


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
    ax = ax or _new_axes()
    ax.step(hypervolume.index, hypervolume, where="post", color=_FRONT, linewidth=1.4)
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
    ax = ax or _new_axes()
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


def plot_importance(table: pd.DataFrame, objective: str, ax: Axes | None = None) -> Axes:
    """Which genes matter, as a map of what the gene is by layer: darker is more.

    Args:
        table: shares by kind of gene (rows) and layer (columns), as `nas_engine.results.importance.layer_table`
            gives it.
        objective: its name.
        ax: where to draw; None makes a figure whose height follows the rows.
    """
    return _plot_layers(100 * table, f"share in {objective} (%)", ax)


def plot_sensitivity(sensitivity: Mapping[str, Sequence[float]], space: SearchSpace, ax: Axes | None = None) -> Axes:
    """What each gene's smallest value changes of what the network says, as a map of what the gene is by layer.

    Shades are logarithmic, over four decades.

    Args:
        sensitivity: as `SuperNetwork.sensitivity` gives it.
        space: of that super-network.
        ax: where to draw; None makes a figure whose height follows the rows.
    """
    smallest = pd.Series({gene: values[0] for gene, values in sensitivity.items()})
    table = layer_table(smallest, space)
    most = float(np.nanmax(table.to_numpy(dtype=float)))
    if not most > 0:
        return _plot_layers(table, "divergence when smallest (nats)", ax)
    # Blocks without which nothing works would leave all others white.
    least = most * _DECADES_SHOWN
    shown = table.clip(lower=least)
    return _plot_layers(shown, "divergence when smallest (nats)", ax, LogNorm(least, most))


def plot_confirmed(rows: pd.DataFrame, x: Column, y: Column, ax: Axes | None = None) -> Axes:
    """Objective `y` against `x` on held-out data; a thin line leads to each row from where the search had seen it.

    Args:
        rows: as `ConfirmedFront.frame`, measured ones alone.
        x: objective of the horizontal axis.
        y: objective of the vertical axis.
        ax: where to draw; None makes a figure.
    """
    ax = ax or _new_axes()
    rows = _drawable(rows, x, y)
    before = {c.name: rows[f"{c.name}_search"] if f"{c.name}_search" in rows else rows[c.name] for c in (x, y)}
    ax.plot(
        np.vstack([before[x.name], rows[x.name]]),
        np.vstack([before[y.name], rows[y.name]]),
        color=_DOMINATED,
        linewidth=0.7,
        zorder=1,
    )
    hollow: dict[str, Any] = {"s": 12, "facecolors": "white", "edgecolors": _DOMINATED, "linewidths": 0.8}
    ax.scatter(before[x.name], before[y.name], zorder=2, label="in the search", **hollow)
    still, beyond = rows["on_front"], rows["dominated_beyond_error"]
    for mask, marker, colour, label in (
        (still, "o", _FRONT, "on the front"),
        (~still & ~beyond, "v", "#7f9fbf", "within the errors"),
        (beyond, "x", _CHOSEN, "no longer"),
    ):
        shown = rows[mask]
        if len(shown):
            ax.errorbar(
                shown[x.name],
                shown[y.name],
                xerr=_errors(shown, x),
                yerr=_errors(shown, y),
                fmt=marker,
                markersize=4,
                color=colour,
                elinewidth=0.6,
                capsize=1.5,
                zorder=4,
                label=label,
            )
    ax.set_xlabel(_label(x), fontsize=9)
    ax.set_ylabel(f"{_label(y)}, held out" if f"{y.name}_search" in rows else _label(y), fontsize=9)
    ax.grid(alpha=0.25, linewidth=0.5)
    ax.margins(0.08)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=7, frameon=False, handletextpad=0.2,
              columnspacing=0.8)  # fmt: skip
    return ax


def _plot_layers(table: pd.DataFrame, label: str, ax: Axes | None, norm: Normalize | None = None) -> Axes:
    """A map of kinds of genes (rows) by layer (columns); cells without a gene are hatched."""
    ax = ax or _new_axes(height=1.15 + 0.24 * len(table))
    ax.patch.set(hatch="////", edgecolor="#c0c0c0", facecolor="white")
    image = ax.imshow(
        np.ma.masked_invalid(table.to_numpy(dtype=float)),
        cmap="Greys",
        norm=norm or Normalize(vmin=0),
        aspect="auto",
        interpolation="nearest",
    )
    ax.set_yticks(range(len(table)), labels=_short(list(table.index)), fontsize=8)
    ax.set_xticks(np.arange(-0.5, len(table.columns)), minor=True)
    ax.set_yticks(np.arange(-0.5, len(table)), minor=True)
    ax.grid(which="minor", color="#d8d8d8", linewidth=0.5)  # shows cells that are all but white
    ax.tick_params(which="minor", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))
    ax.set_xlabel("layer", fontsize=9)
    for side in ax.spines.values():
        side.set_visible(False)
    figure = ax.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(image, ax=ax, location="top", aspect=40, pad=0.03, shrink=0.9)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return ax


def _short(kinds: list[str]) -> list[str]:
    """Kinds of genes without the modules that they are about, where that tells them apart."""
    last = [kind.rpartition(".")[2] for kind in kinds]
    return last if len(set(last)) == len(kinds) else kinds


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


def _new_axes(height: float = _COLUMN[1]) -> Axes:
    _, ax = plt.subplots(figsize=(_COLUMN[0], height), dpi=150, layout="constrained")
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


def _drawable(rows: _Rows, *columns: Column) -> _Rows:
    """A copy in which no value is so large that the ends of an axis, or their difference, would be no number."""
    drawn = rows.copy()
    for name in (f"{c.name}{what}" for c in columns for what in ("", "_stderr", "_search")):
        if name in drawn:
            drawn[name] = np.clip(drawn[name], -LARGEST / 8, LARGEST / 8)
    return drawn


def _errors(rows: pd.DataFrame, column: Column) -> pd.Series | None:
    errors = rows[f"{column.name}_stderr"]
    return errors if (errors > 0).any() else None


def _label(column: Column) -> str:
    return f"{column.name} ({column.unit})" if column.unit else column.name
