"""Figures, a file each: one message, axes with units, readable in grey and at a column's width."""

from nas_engine.plots.axes import save
from nas_engine.plots.confirmed import plot_confirmed
from nas_engine.plots.front import mark_reference, plot_front
from nas_engine.plots.healed import plot_healed
from nas_engine.plots.hypervolume import plot_comparison, plot_hypervolume
from nas_engine.plots.layers import layer_table, plot_importance, plot_sensitivity

__all__ = [
    "layer_table",
    "mark_reference",
    "plot_comparison",
    "plot_confirmed",
    "plot_front",
    "plot_healed",
    "plot_hypervolume",
    "plot_importance",
    "plot_sensitivity",
    "save",
]
