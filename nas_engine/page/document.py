"""A run as the data that the page's script draws."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd

from nas_engine.page.figures import hypervolume_figure, sensitivity_figure
from nas_engine.page.run import Found, Run
from nas_engine.plots.axes import REFERENCE
from nas_engine.plots.configurations import fixed_in, kinds_of
from nas_engine.plots.interactive_front import Marked
from nas_engine.plots.numbers import shown
from nas_engine.results.interactive import axes_of, figure_of, hover_texts, largest_of, measured_rows


def document(run: Run) -> dict[str, Any]:
    """All of a run that is drawn, as JSON data."""
    return {"name": run.name, "searches": [_search(run, found) for found in run.searches]}


def in_script(data: Any) -> str:
    """JSON that may stand inside a ``<script>``: nothing in it can end the element or begin a comment."""
    text = json.dumps(_finite(data), allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _finite(data: Any) -> Any:
    """The same, with null for what JSON has no number for."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _search(run: Run, found: Found) -> dict[str, Any]:
    result, space = found.result, found.result.supernet.space
    rows, largest = measured_rows(result), largest_of(result)
    known = run.about.reference_name if run.about else REFERENCE
    marked = Marked(largest, found.chosen, _reference(run, largest), known)
    first_x, first_y = axes_of(result)
    objectives = list(result.objectives)
    volume, said = hypervolume_figure(result) if any(o.optimized for o in objectives) else (None, "")
    fits = run.sensitivity is not None and set(run.sensitivity) == set(space.names)
    return {
        "label": found.label,
        "objectives": [
            {"name": o.name, "unit": o.unit, "direction": o.direction, "optimized": o.optimized} for o in objectives
        ],
        "first": [None if first_x is None else objectives.index(first_x), objectives.index(first_y)],
        "figures": _figures(found, marked),
        "hover": {str(number): text for number, text in hover_texts(result).items()},
        "rows": [_row(found, number, row) for number, row in rows.iterrows()],
        "largest": None if largest is None else int(largest.name),
        "chosen": None if found.chosen is None else int(found.chosen.name),
        "constraints": [constraint.text for constraint in result.constraints],
        "layers": _layers(found),
        "genes": [list(gene.values) for gene in space.genes],
        "fixed": fixed_in(space),
        "hypervolume": {"figure": volume, "text": said},
        "sensitivity": dict(zip(("figure", "ends"), sensitivity_figure(run.sensitivity or {}, space), strict=True))
        if fits
        else None,
        "takes": _takes(run, found),
    }


def _figures(found: Found, marked: Marked) -> dict[str, Any]:
    """By the positions of the horizontal and the vertical objective, ``"1,0"``; of a single one ``",0"``."""
    objectives = list(found.result.objectives)
    if len(objectives) == 1:
        return {",0": figure_of(found.result, None, objectives[0], marked)}
    return {
        f"{i},{j}": figure_of(found.result, x, y, marked)
        for i, x in enumerate(objectives)
        for j, y in enumerate(objectives)
        if i != j
    }


def _row(found: Found, number: int, row: pd.Series) -> dict[str, Any]:
    return {
        "n": number,
        "name": found.names.get(number, ""),
        "genome": list(found.result.records[number - 1].genome),
        "values": [float(row[o.name]) for o in found.result.objectives],
        "stderrs": [float(row[f"{o.name}_stderr"]) for o in found.result.objectives],
        "texts": [shown(row[o.name], row[f"{o.name}_stderr"], o.unit) for o in found.result.objectives],
        "feasible": bool(row["feasible"]),
        "front": bool(row["on_front"]),
    }


def _layers(found: Found) -> list[dict[str, Any]]:
    """What a configuration makes of each layer, a kind each: which gene says so, and which leaves its block out."""
    space = found.result.supernet.space
    place = {gene.name: i for i, gene in enumerate(space.genes)}
    return [
        {
            "label": kind.label,
            "unit": kind.unit,
            "most": kind.most,
            "genes": [None if choice is None else place.get(choice.name) for choice in kind.choices],
            "fixed": [choice.values[0] if choice is not None and len(choice) == 1 else None for choice in kind.choices],
            "keeps": [None if keep is None else place[keep.name] for keep in kind.keeps],
        }
        for kind in kinds_of(space)
    ]


def _reference(run: Run, largest: pd.Series | None) -> dict[str, float]:
    """What a user would otherwise have: as the largest, but for what was measured of it."""
    kept = run.about.reference if run.about is not None else {}
    return {} if largest is None or not kept else {**largest, **kept}


def _takes(run: Run, found: Found) -> bool:
    """Whether a sub-network of this search can be had from what the run kept."""
    return found.label == "search" and (run.folder / "supernet").is_dir()
