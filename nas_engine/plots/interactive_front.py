"""The Pareto front of two objectives as a figure that answers to the pointer, as plotly's JSON.

It is data: who draws it needs plotly, and who makes it does not. Each trace says in `meta` what it is, so that a page
can give it the colours of its theme.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from evaluators.protocol import sign_of
from nas_engine.errors import SelectionError
from nas_engine.plots.axes import (
    CHOSEN,
    DOMINATED,
    FRONT,
    REFERENCE,
    Column,
    Window,
    at_the_edge,
    drawable,
    errors_of,
    label_of,
    missing_label,
    windows_of,
)
from nas_engine.plots.configurations import GeneKind, configuration_lines
from nas_engine.plots.front import front_of
from nas_engine.plots.numbers import shown
from search_spaces import Configuration

if TYPE_CHECKING:
    import plotly.graph_objects as go

Figure = dict[str, Any]
_BETTER = {"maximize": "higher is better", "minimize": "lower is better"}
_INK, _PALE = "#16202b", "#7f9fbf"
_LINE = 62  # characters of a hover's line


@dataclass(frozen=True)
class Marked:
    """What stands out in a front.

    Args:
        largest: the row of the largest sub-network; None where it was not measured.
        chosen: the row of the chosen one.
        reference: what a user would otherwise have: objectives by name.
        reference_name: what that is.
    """

    largest: pd.Series | None = None
    chosen: pd.Series | None = None
    reference: Mapping[str, float] = field(default_factory=dict)
    reference_name: str = REFERENCE


def front_figure(
    rows: pd.DataFrame, x: Column, y: Column, marked: Marked | None = None, texts: Mapping[int, str] | None = None
) -> Figure:
    """Objective `y` against `x`, as `plot_front` draws it.

    Args:
        rows: evaluated sub-networks, with `feasible`, `on_front`, and columns for both objectives and their `_stderr`.
        x: objective of the horizontal axis.
        y: objective of the vertical axis.
        marked: what stands out.
        texts: what each evaluation says when pointed at; see `hover_text`.
    """
    marked = marked or Marked()
    rows, texts = drawable(rows, x, y), texts or {}
    kept = rows[rows["feasible"]]
    front = front_of(kept, x, y)
    largest = None if marked.largest is None else drawable(marked.largest.to_frame().T, x, y)
    windows = windows_of(kept if largest is None else pd.concat([kept, largest]), x, y)
    missing, beyond = at_the_edge(rows[~rows["feasible"]], windows)
    others = kept.drop(front.index)
    elsewhere = others["on_front"]
    traces = [
        _points(others[~elsewhere], x, y, texts, "dominated", "dominated", size=7, color=DOMINATED, opacity=0.55),
        _points(missing, x, y, texts, "infeasible", missing_label(beyond), size=8, symbol="x-thin",
                color=DOMINATED, line={"width": 1.6, "color": DOMINATED}),
        _points(others[elsewhere], x, y, texts, "elsewhere", "front of all", size=8,
                symbol="circle-open", color=_PALE, line={"width": 1.6}),
        _step(front, x, y),
        _points(front, x, y, texts, "front", "Pareto front", size=9, color=FRONT, errors=True),
    ]  # fmt: skip
    if largest is not None:
        traces.append(_points(largest, x, y, texts, "largest", "largest", size=15, symbol="star", color=_INK))
    if {x.name, y.name} <= set(marked.reference):
        traces.append(_reference(marked, x, y))
    if marked.chosen is not None:
        chosen = drawable(marked.chosen.to_frame().T, x, y)
        traces.append(
            _points(chosen, x, y, texts, "chosen", "chosen", size=19, symbol="circle-open", color=CHOSEN,
                    line={"width": 2.2})
        )  # fmt: skip
    layout = _layout(axis_title(x), axis_title(y), windows.get(x.name), windows.get(y.name))
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout}


def progress_figure(rows: pd.DataFrame, y: Column, texts: Mapping[int, str] | None = None) -> Figure:
    """A single objective over evaluations, and the best so far as a step line.

    Args:
        rows: as `front_figure` takes them.
        y: the objective.
        texts: likewise.
    """
    rows, texts = drawable(rows, y), texts or {}
    kept = rows[rows["feasible"]]
    windows = windows_of(kept, y)
    missing, beyond = at_the_edge(rows[~rows["feasible"]], windows)
    best = kept[y.name].cummin() if sign_of(y.direction) > 0 else kept[y.name].cummax()
    line = {"color": FRONT, "width": 2, "shape": "hv"}
    traces = [
        _over(kept, y, texts, "dominated", "measured", {"size": 8, "color": DOMINATED, "opacity": 0.7}),
        _over(missing, y, texts, "infeasible", missing_label(beyond),
              {"size": 8, "symbol": "x-thin", "color": DOMINATED, "line": {"width": 1.6, "color": DOMINATED}}),
        {"type": "scatter", "mode": "lines", "x": [*map(int, kept.index)], "y": [*map(float, best)], "line": line,
         "name": "best so far", "hoverinfo": "skip", "meta": {"role": "front"}},
    ]  # fmt: skip
    layout = _layout("evaluations", axis_title(y), None, windows.get(y.name))
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout}


def hover_text(
    row: pd.Series, objectives: Iterable[Column], configuration: Configuration, kinds: Sequence[GeneKind]
) -> str:
    """What a point says: its evaluation, its objectives with their errors and its configuration by depth."""
    lines = [f"<b>evaluation {row.name}</b>"]
    lines += [f"{escape(o.name)} {escape(shown(row[o.name], row[f'{o.name}_stderr'], o.unit))}" for o in objectives]
    for line in configuration_lines(configuration, kinds):
        lines += [escape(part) for part in _wrapped(line)]
    return "<br>".join(lines)


def axis_title(column: Column) -> str:
    """An objective's name, its unit and which way is better."""
    label = label_of(column)
    better = _BETTER[column.direction]
    return escape(f"{label[:-1]}, {better})" if column.unit else f"{label} ({better})")


def drawn(figures: Mapping[str, Figure]) -> go.Figure:
    """Figures of the same search as one of plotly's, with a menu to choose from where there are several.

    Raises:
        SelectionError: plotly is not installed.
    """
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise SelectionError('an interactive figure needs plotly: pip install "nas-engine[report]".') from error
    first = next(iter(figures.values()))
    traces = [trace | {"visible": figure is first} for figure in figures.values() for trace in figure["data"]]
    # By default plotly offers to send a figure to its makers' server.
    own = {"template": "plotly_white", "height": 520, "modebar": {"orientation": "v", "remove": ["sendChartToCloud"]}}
    layout = first["layout"] | own
    if len(figures) > 1:
        layout |= {"updatemenus": [_menu(figures)], "margin": {"t": 110}}
    return go.Figure({"data": traces, "layout": layout})


def _menu(figures: Mapping[str, Figure]) -> Figure:
    """Shows the traces of one figure, and its titles."""
    owners = [name for name, figure in figures.items() for _ in figure["data"]]
    buttons = [
        {
            "label": escape(name),
            "method": "update",
            "args": [
                {"visible": [owner == name for owner in owners]},
                {f"{axis}.title.text": figure["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis")}
                | {f"{axis}.type": figure["layout"][axis].get("type", "linear") for axis in ("xaxis", "yaxis")},
            ],
        }
        for name, figure in figures.items()
    ]
    return {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.24, "yanchor": "top"}


def _points(
    rows: pd.DataFrame,
    x: Column,
    y: Column,
    texts: Mapping[int, str],
    role: str,
    name: str,
    errors: bool = False,
    **marker: Any,
) -> Figure:
    trace = {
        "x": [*map(float, rows[x.name])],
        "y": [*map(float, rows[y.name])],
        **_said(rows, texts),
        **_scatter(role, name, marker),
    }
    for axis, column in (("error_x", x), ("error_y", y)) if errors else ():
        found = errors_of(rows, column)
        if found is not None:
            trace[axis] = {"type": "data", "array": [*map(float, found)], "thickness": 1, "width": 3}
    return trace


def _over(
    rows: pd.DataFrame, y: Column, texts: Mapping[int, str], role: str, name: str, marker: dict[str, Any]
) -> Figure:
    """Points over evaluations."""
    over = {"x": [*map(int, rows.index)], "y": [*map(float, rows[y.name])]}
    return over | _said(rows, texts) | _scatter(role, name, marker)


def _said(rows: pd.DataFrame, texts: Mapping[int, str]) -> Figure:
    said = {"text": [texts[number] for number in rows.index]} if texts else {}
    return {"customdata": [*map(int, rows.index)], **said, "hovertemplate": "%{text}<extra></extra>"}


def _scatter(role: str, name: str, marker: dict[str, Any]) -> Figure:
    return {"type": "scatter", "mode": "markers", "name": name, "marker": marker, "meta": {"role": role}}


def _step(front: pd.DataFrame, x: Column, y: Column) -> Figure:
    """From a point the front goes on towards what is worse in x, at the same y."""
    shape = "hv" if sign_of(x.direction) > 0 else "vh"
    return {
        "type": "scatter", "mode": "lines", "name": "Pareto front", "showlegend": False, "hoverinfo": "skip",
        "x": [*map(float, front[x.name])], "y": [*map(float, front[y.name])],
        "line": {"color": FRONT, "width": 2, "shape": shape}, "meta": {"role": "front"},
    }  # fmt: skip


def _reference(marked: Marked, x: Column, y: Column) -> Figure:
    values = {column.name: float(marked.reference[column.name]) for column in (x, y)}
    said = "<br>".join(
        [f"<b>{escape(marked.reference_name)}</b>"]
        + [f"{escape(c.name)} {escape(shown(values[c.name], 0.0, c.unit))}" for c in (x, y)]
    )
    marker = {"size": 15, "symbol": "star-open", "color": _INK, "line": {"width": 1.6}}
    placed = {"x": [values[x.name]], "y": [values[y.name]], "hovertemplate": f"{said}<extra></extra>"}
    return placed | _scatter("reference", marked.reference_name, marker)


def _layout(x: str, y: str, along: Window | None, up: Window | None) -> Figure:
    kinds = [{"type": "log"} if window is not None and window.logarithmic else {} for window in (along, up)]
    return {
        "xaxis": {"title": {"text": x}, "automargin": True, **kinds[0]},
        "yaxis": {"title": {"text": y}, "automargin": True, **kinds[1]},
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
    }


def _wrapped(line: str) -> list[str]:
    """Broken at commas, so that no line is long."""
    lines = [""]
    for i, part in enumerate(line.split(", ")):
        if lines[-1] and len(lines[-1]) + len(part) > _LINE:
            lines[-1] += ","
            lines.append(f"   {part}")
        else:
            lines[-1] += f", {part}" if i else part
    return lines
