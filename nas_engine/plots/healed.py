"""Finalists before and after healing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.axes import Axes

from nas_engine.plots.axes import CHOSEN, DOMINATED, FRONT, REFERENCE, finished, new_axes

if TYPE_CHECKING:
    from evaluators import Measurement


def plot_healed(
    finalists: pd.DataFrame,
    reference: Measurement,
    ax: Axes | None = None,
    score: str = "accuracy",
    reference_name: str = REFERENCE,
    minimize: str = "latency",
) -> Axes:
    """A score of finalists before and after healing over their speed-up, or over how many times they have less of
    another cost, with the reference at 1.

    Args:
        finalists: as `nas_engine.jobs.finalists.table` gives it, the chosen one first.
        reference: the reference's score on the same data.
        ax: where to draw; None makes a figure.
        score: its column.
        reference_name: what the reference is.
        minimize: the cost that they have little of.
    """
    gain, label = "speedup", "speed-up over the whole model"
    if "reduction" in finalists:
        gain, label = "reduction", f"times less {minimize.replace('_', ' ')} than the whole model"
    ax = ax or new_axes()
    ax.axhline(reference.value, color="black", linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
    ax.errorbar(1.0, reference.value, yerr=reference.stderr, fmt="*", markersize=10, color="black", elinewidth=0.6,
                capsize=1.5, label=reference_name)  # fmt: skip
    ordered = finalists.sort_values(gain)
    styles: tuple[tuple[str, dict[str, Any]], ...] = (
        ("unhealed", {"fmt": "o--", "markerfacecolor": "white", "color": DOMINATED, "label": "before healing"}),
        (score, {"fmt": "o-", "color": FRONT, "label": "healed"}),
    )
    for column, style in styles:
        ax.errorbar(ordered[gain], ordered[column], yerr=ordered[f"{column}_stderr"], markersize=4,
                    linewidth=1.1, elinewidth=0.6, capsize=1.5, **style)  # fmt: skip
    chosen = finalists.iloc[0]
    leaving = "unhealed" if chosen.get("leaves") == "unhealed" else score
    ax.scatter(chosen[gain], chosen[leaving], s=75, facecolors="none", edgecolors=CHOSEN, linewidths=1.5,
               zorder=6, label="chosen")  # fmt: skip
    return finished(ax, label, score.replace("_", " "), columns=4)
