"""The row that a user asks for: the best in one objective among those that meet a condition."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pandas as pd

from nas_engine.errors import SelectionError
from nas_engine.goal.constraints import Constraint

_REFERENCE = re.compile(r"\breference\.(\w+)")


def best_row(
    frame: pd.DataFrame,
    names: Sequence[str],
    minimize: str | None,
    maximize: str | None,
    where: str | None,
    constraints: Sequence[Constraint],
    reference: Callable[[], pd.Series],
) -> pd.Series:
    """See `SearchResult.best`.

    Args:
        frame: of the search.
        names: of its objectives.
        minimize: the objective to be small, or None.
        maximize: the objective to be large, or None.
        where: a condition on objectives; None takes every feasible row.
        constraints: what made rows feasible, for an error.
        reference: gives the largest sub-network's row; called where the condition names it.

    Raises:
        SelectionError: as `SearchResult.best`.
    """
    target = minimize or maximize
    if (minimize is None) == (maximize is None) or target not in names:
        raise SelectionError(
            f"give minimize= or maximize= one of {', '.join(names)}, not {minimize!r} and {maximize!r}."
        )
    rows = frame[frame["feasible"]]
    if rows.empty and constraints:
        raise SelectionError(f"no sub-network keeps {' and '.join(c.text for c in constraints)}.")
    met = rows if where is None else _meeting(rows, names, where, reference)
    if met.empty:
        ranges = ", ".join(f"{n} from {rows[n].min():.4g} to {rows[n].max():.4g}" for n in names)
        raise SelectionError(f"no sub-network meets {where!r}; there is {ranges}.")
    # Among equals a row on the front, so that nothing is given away in the other objectives.
    ascending = [minimize is not None, False]
    return met.sort_values([target, "on_front"], ascending=ascending, kind="stable").iloc[0]


def _meeting(rows: pd.DataFrame, names: Sequence[str], where: str, reference: Callable[[], pd.Series]) -> pd.DataFrame:
    def value(match: re.Match[str]) -> str:
        if match[1] not in names:
            raise SelectionError(f"where has {match[0]!r}; reference has {', '.join(names)}.")
        return repr(float(reference()[match[1]]))

    condition = _REFERENCE.sub(value, where)
    try:
        return rows.query(condition)
    except Exception as error:  # pandas raises whatever its parser stumbles on
        raise SelectionError(
            f"where cannot be read: {where!r} ({error}). Write a condition on {', '.join(names)}, such as "
            f'"{names[0]} >= 0.99 * reference.{names[0]}".'
        ) from error
