"""Numbers of genes as a map of what the gene is by layer: importance, sensitivity."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import MaxNLocator

from nas_engine.plots.axes import new_axes
from search_spaces import Choice, SearchSpace

_DECADES_SHOWN = 1e-4  # of the largest, on a logarithmic scale


def layer_table(shares: pd.Series, space: SearchSpace) -> pd.DataFrame:
    """Importances by what the gene is (rows) and layer (columns); NaN where a layer has no such gene.

    A gene that moves several layers stands in each of them with its whole share.
    """
    kinds = list(dict.fromkeys(kind_of(gene) for gene in space.genes))
    last = max(layer for gene in space.genes for layer in layers_of(gene))
    table = pd.DataFrame(np.nan, index=kinds, columns=pd.RangeIndex(last + 1, name="layer"))
    for gene in space.genes:
        for layer in layers_of(gene):
            table.loc[kind_of(gene), layer] = shares[gene.name]
    return table


def plot_importance(table: pd.DataFrame, objective: str, ax: Axes | None = None) -> Axes:
    """Which genes matter, as a map of what the gene is by layer: darker is more.

    Args:
        table: shares by kind of gene (rows) and layer (columns), as `layer_table` gives it.
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


def _plot_layers(table: pd.DataFrame, label: str, ax: Axes | None, norm: Normalize | None = None) -> Axes:
    """A map of kinds of genes (rows) by layer (columns); cells without a gene are hatched."""
    ax = ax or new_axes(height=1.15 + 0.24 * len(table))
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


def layers_of(gene: Choice) -> list[int]:
    """The layers that a gene moves, ascending."""
    return sorted(gene.layers)


def kind_of(gene: Choice) -> str:
    """The gene's name without its layers: ``layers.3.mlp.width`` and ``layers.0-2.mlp.width`` are ``mlp.width``."""
    return re.sub(r"^layers\.[^.]*\.?", "", gene.name) or gene.dimension
