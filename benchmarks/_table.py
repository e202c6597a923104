"""A table of real measurements as a search problem: sub-networks of a trained super-network, each scored once.

`TABLE` is a NumPy archive (``.npz``, no pickle) of

- ``genomes``: integers, shape (rows, genes);
- ``objectives``: floats, shape (rows, objectives), NaN where an evaluation failed;
- ``description``: one text, JSON: ``{"space": SearchSpace.to_json(), "objectives": [{"name": …, "direction":
"minimize" or
  "maximize", "unit": …, "computed": true or false}], …}``, and whatever else says how it was measured.

Best is a table of every genome of a space of a few thousand. A genome that the table lacks has the scores of the
nearest row (fewest steps, the first of equals). The table need not exist; then the problem is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._search_problem import BenchmarkProblem, Scores, corners
from search_spaces import Genome, SearchSpace

TABLE = Path(__file__).parent / "data" / "smollm2_table.npz"
SENSITIVITY = TABLE.with_name("smollm2_table_sensitivity.json")  # of its super-network, known before its measurements


def save_table(
    genomes: Genome, objectives: npt.NDArray[np.float64], description: dict[str, Any], path: Path = TABLE
) -> None:
    """Write a table; see the module's text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, genomes=genomes, objectives=objectives, description=np.array(json.dumps(description)))


def save_sensitivity(sensitivity: Mapping[str, Sequence[float]], measured: str, path: Path = SENSITIVITY) -> None:
    """Write what is known beforehand of a table's genes, by gene, and how it was measured."""
    text = json.dumps({"measured": measured, "genes": {name: list(values) for name, values in sensitivity.items()}})
    path.write_text(text + "\n", encoding="utf-8")


def table_problem(path: Path = TABLE) -> BenchmarkProblem:
    """The problem that a table holds.

    Raises:
        ValueError: arrays that do not fit the described space and objectives, or no row for the largest or smallest.
    """
    with np.load(path, allow_pickle=False) as archive:
        genomes, values = archive["genomes"].astype(np.int64), archive["objectives"].astype(float)
        description = json.loads(str(archive["description"]))
    space = SearchSpace.from_json(description["space"])
    if genomes.shape[1] != len(space) or values.shape != (len(genomes), len(description["objectives"])):
        raise ValueError(f"{path} holds genomes {genomes.shape} and objectives {values.shape}, unlike its description.")
    signs = np.array([1.0 if o["direction"] == "minimize" else -1.0 for o in description["objectives"]])
    rows = {genome.tobytes(): row for genome, row in zip(genomes, signs * values, strict=True)}
    for name in ("largest", "smallest"):
        if getattr(space, name).tobytes() not in rows:
            raise ValueError(f"{path} has no row for the {name} sub-network, which sets the hypervolume's scale.")

    def row_of(genome: Genome) -> npt.NDArray[np.float64]:
        row = rows.get(genome.tobytes())
        return row if row is not None else signs * values[np.abs(genomes - genome).sum(axis=1).argmin()]

    def true(asked: Genome) -> Scores:
        return np.array([row_of(genome) for genome in asked]), np.empty((len(asked), 0))

    def computed(asked: Genome) -> npt.NDArray[np.float64]:
        known = np.array([bool(o.get("computed", False)) for o in description["objectives"]])
        return np.where(known, true(asked)[0], np.nan)

    ideal, nadir = corners(space, true)
    return BenchmarkProblem(
        space,
        true,
        lambda asked, _: true(asked),
        ideal,
        nadir,
        np.full(len(signs), 1.1),
        computed,
        _sensitivity(space) if path == TABLE and SENSITIVITY.exists() else None,
    )


def _sensitivity(space: SearchSpace) -> tuple[npt.NDArray[np.float64], ...]:
    genes = json.loads(SENSITIVITY.read_text(encoding="utf-8"))["genes"]
    return tuple(np.array(genes[name], dtype=float) for name in space.names)
