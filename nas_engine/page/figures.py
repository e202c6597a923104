"""The page's other figures as plotly's JSON: hypervolume, sensitivity, finalists. They look as those of `plots` do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from nas_engine.errors import SelectionError
from nas_engine.page.summary import SearchSummary
from nas_engine.plots.axes import CHOSEN, DOMINATED, FRONT
from nas_engine.plots.configurations import kind_labels
from nas_engine.plots.interactive_front import Figure
from nas_engine.plots.layers import layer_table
from nas_engine.plots.numbers import shown
from nas_engine.results.result import SearchResult
from search_spaces import SearchSpace

_DECADES = 4  # of sensitivities that are told apart
_FEWEST = 2  # evaluations of a curve


def hypervolume_figure(result: SearchResult[Any]) -> tuple[Figure | None, str]:
    """The hypervolume over evaluations, and from which point it is measured; or None, and why there is none."""
    if len(result) < _FEWEST:
        return None, "A hypervolume needs the largest and the smallest sub-network; they are measured first."
    try:
        volumes, point = result.hypervolume(), result.reference_point()
    except SelectionError as error:
        return None, f"There is no hypervolume: {error}"
    units = {o.name: o.unit for o in result.objectives}
    told = ", ".join(f"{name} {shown(value, 0.0, units[name])}" for name, value in point.items())
    trace = {
        "type": "scatter",
        "mode": "lines",
        "x": [*map(int, volumes.index)],
        "y": [*map(float, volumes)],
        "line": {"color": FRONT, "width": 2, "shape": "hv"},
        "hovertemplate": "after %{x} evaluations: %{y:.4g}<extra></extra>",
        "meta": {"role": "front"},
    }
    layout = _layout("evaluations", "hypervolume (normalized)", showlegend=False)
    layout["yaxis"]["rangemode"] = "tozero"
    return {"data": [trace], "layout": layout}, f"Measured from the point {told}."


def sensitivity_figure(
    sensitivity: Mapping[str, Sequence[float]], space: SearchSpace
) -> tuple[Figure, tuple[str, str]]:
    """What each gene's smallest value changes of what the network says, by layer; and the ends of its scale, in nats.

    Shades are logarithmic.
    """
    table = layer_table(pd.Series({gene: values[0] for gene, values in sensitivity.items()}), space)
    values = table.to_numpy(dtype=float)  # (kinds, layers)
    most = float(np.nanmax(values))
    top = math.log10(most) if most > 0 else 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        shades = np.clip(np.log10(values), top - _DECADES, top)
    labels = kind_labels(space)
    trace = {
        "type": "heatmap",
        "z": _rows(shades),
        "customdata": _rows(values),
        "x": [*map(int, table.columns)],
        "y": [escape(labels.get(kind, kind)) for kind in table.index],
        "zmin": top - _DECADES,
        "zmax": top,
        "xgap": 1,
        "ygap": 1,
        "showscale": False,
        "hovertemplate": "%{y}, layer %{x}: %{customdata:.3g} nats<extra></extra>",
        "meta": {"role": "heat"},
    }  # fmt: skip
    layout = _layout("layer", "", showlegend=False)
    layout["xaxis"] |= {
        "zeroline": False,
        "showgrid": False,
        "tick0": 0,
        "dtick": max(1, math.ceil(values.shape[1] / 8)),
    }
    layout["yaxis"] |= {"autorange": "reversed", "ticks": "", "showgrid": False}
    layout["height"] = 60 + 38 * len(table)
    return {"data": [trace], "layout": layout}, (f"{10 ** (top - _DECADES):.2g}", f"{10**top:.2g}")


def healed_figure(summary: SearchSummary, reference: Mapping[str, float]) -> Figure | None:
    """The score of the finalists before and after healing over their speed-up, or over how many times they have less of
    another cost; None where there are none.

    Args:
        summary: of the job.
        reference: the reference's score and its `_stderr` on the same data, where they were kept.
    """
    if not summary.finalists:
        return None
    label, as_much = "speed-up over the whole model (×)", "× as fast"
    if cost := summary.reduced:
        label, as_much = f"times less {escape(cost)} than the whole model (×)", f"× less {escape(cost)}"
    ordered, chosen = sorted(summary.finalists, key=lambda finalist: finalist.gain), summary.finalists[0]
    gains, line = [f.gain for f in ordered], partial(_line, as_much)
    pale = {"color": DOMINATED, "symbol": "circle-open", "size": 9, "line": {"width": 1.6}}
    traces = [
        line("before healing", "dominated", gains, [(f.unhealed, f.unhealed_stderr) for f in ordered],
             marker=pale, line={"color": DOMINATED, "width": 1.5, "dash": "dash"}),
        line("healed", "front", gains, [(f.score, f.score_stderr) for f in ordered],
             marker={"color": FRONT, "size": 9}, line={"color": FRONT, "width": 2}),
    ]  # fmt: skip
    for trace, steps in zip(traces, ([0] * len(ordered), [f.heal_steps for f in ordered]), strict=True):
        trace["text"] = [
            f"evaluation {finalist.evaluation}, {count} steps" for finalist, count in zip(ordered, steps, strict=True)
        ]
    if summary.quality in reference:
        known = [(reference[summary.quality], reference.get(f"{summary.quality}_stderr", 0.0))]
        star = {"color": "#16202b", "symbol": "star-open", "size": 15, "line": {"width": 1.6}}
        traces.append(line(summary.reference_name, "reference", [1.0], known, mode="markers", marker=star))
    ring = {"color": CHOSEN, "symbol": "circle-open", "size": 19, "line": {"width": 2.2}}
    traces.append(
        line(
            "chosen", "chosen", [chosen.gain], [(chosen.deployed_score, 0.0)], mode="markers", marker=ring, hover=False
        )
    )
    return {"data": traces, "layout": _layout(label, summary.quality.replace("_", " "))}


def _line(
    as_much: str,
    name: str,
    role: str,
    x: Sequence[float],
    y: Sequence[tuple[float, float]],
    mode: str = "lines+markers",
    hover: bool = True,
    **style: Any,
) -> Figure:
    trace = {
        "type": "scatter", "mode": mode, "name": name, "x": list(x), "y": [value for value, _ in y],
        "customdata": [shown(*entry) for entry in y], "meta": {"role": role},
        "hovertemplate": f"<b>{name}</b> %{{text}}<br>%{{customdata}}<br>%{{x:.3g}} {as_much}<extra></extra>",
        "text": [""] * len(x), **style,
    }  # fmt: skip
    if not hover:
        trace |= {"hoverinfo": "skip"}
        del trace["hovertemplate"]
    errors = [stderr for _, stderr in y]
    if any(stderr > 0 for stderr in errors):
        trace["error_y"] = {"type": "data", "array": errors, "thickness": 1, "width": 3}
    return trace


def _layout(x: str, y: str, showlegend: bool = True) -> Figure:
    return {
        "xaxis": {"title": {"text": x}, "automargin": True},
        "yaxis": {"title": {"text": y}, "automargin": True},
        "hovermode": "closest",
        "showlegend": showlegend,
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
    }


def _rows(table: np.ndarray[Any, Any]) -> list[list[float | None]]:
    """As JSON has it: what is no number is null."""
    return [[None if math.isnan(value) else float(value) for value in row] for row in table]
