"""The records of a search as a data frame: genes, objectives with their errors, what is feasible, what is the front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from evaluators import Direction, sign_of
from nas_engine.goal.constraints import Constraint, violations
from nas_engine.ledger.ledger import Record
from nas_engine.results.dominance import non_dominated
from search_spaces import SearchSpace, Value


@dataclass(frozen=True)
class Objective:
    """A column to be made small or large, or one that only bounds where it is not `optimized`."""

    name: str
    direction: Direction
    unit: str
    optimized: bool = True

    @property
    def sign(self) -> float:
        """What turns the column into one to be minimized."""
        return sign_of(self.direction)


def evaluation_table(
    space: SearchSpace, objectives: Sequence[Objective], records: Sequence[Record], constraints: Sequence[Constraint]
) -> pd.DataFrame:
    """One row a record, indexed from 1; the columns are those of `SearchResult.frame`."""
    names = [o.name for o in objectives]
    rows = []
    for record in records:
        row: dict[str, object] = dict(space.configuration(record.genome))
        for i, name in enumerate(names):
            m = record.measurements[i] if record.measurements else None
            row |= {
                name: m.value if m else np.nan,
                f"{name}_stderr": m.stderr if m else np.nan,
                f"{name}_n": m.n if m else 0,
            }
        rows.append(row | {"error": record.error})
    columns = [*space.names, *(f"{n}{what}" for n in names for what in ("", "_stderr", "_n")), "error"]
    frame = pd.DataFrame(rows, columns=columns, index=pd.RangeIndex(1, len(rows) + 1, name="evaluation"))
    feasible = (frame["error"] == "").to_numpy() & _keeps(frame, space, names, constraints)
    optimized = [o for o in objectives if o.optimized]
    signs = np.array([o.sign for o in optimized])
    on_front = np.zeros(len(frame), dtype=bool)
    on_front[feasible] = non_dominated(frame.loc[feasible, [o.name for o in optimized]].to_numpy(dtype=float) * signs)
    return frame.assign(feasible=feasible, on_front=on_front)


def row_of(frame: pd.DataFrame, space: SearchSpace, genome: npt.ArrayLike) -> pd.DataFrame:
    """The rows of one genome: one, or none where it was not evaluated."""
    configuration = space.configuration(genome)
    return frame[(frame[list(configuration)] == pd.Series(configuration)).all(axis=1)]


def configuration_of(row: pd.Series, space: SearchSpace) -> dict[str, Value]:
    """The value of every gene in a row, as the space has it and not as a column's type does."""
    return {gene.name: gene.values[gene.values.index(row[gene.name])] for gene in space.genes}


def _keeps(
    frame: pd.DataFrame, space: SearchSpace, names: Sequence[str], constraints: Sequence[Constraint]
) -> npt.NDArray[np.bool_]:
    """Which rows keep every constraint, shape (rows,)."""
    rows = row_of(frame, space, space.largest)
    reference = {name: float(rows.iloc[0][name]) if len(rows) else math.nan for name in names}
    values = {name: frame[name].to_numpy(dtype=float) for name in names}
    return np.asarray((violations(constraints, values, reference) <= 0).all(axis=1))
