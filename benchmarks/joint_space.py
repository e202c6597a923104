"""One space of rank, width, bits and sparsity against each of them alone, at equal training and equal evaluations.

Perplexity on held-out texts against the bytes of the layers' weights: nonzeros at their bits, and a bit a weight that
says which are zero where any is; adapters are merged and count for nothing. SmolLM2-135M is ordered, its versions are
put on disk, sparse ones refitted. Each space then has a super-network of its own, trained for as many steps on the same
texts from the same seed, and the same driver searches it with the same number of evaluations. A front's point is
dominated where the joint front has one that is no worse in both and better in one. Hypervolume counts bytes as a
fraction of the dense ones and perplexity by its logarithm, from `best`, the least that any space found, 0, to ten
times as much, 1.

Run as ``python -m benchmarks.joint_space [--quick] [--data questions.jsonl] [--evaluations N] [--steps N]
[--driver NAME] [--folder FOLDER] [--figure FILE.png]``; interrupted, it goes on.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from moocore import hypervolume

from benchmarks._common import arguments, load, print_json, texts
from benchmarks.quantization_error import batched, perplexity
from evaluators import Measurement, Operator, Subnetwork, cost_model
from nas_engine import SuperNetwork, search, train
from nas_engine.compression.calibration import Batch
from nas_engine.compression.database import LayerDatabase, build_database
from nas_engine.recipes import ordered
from nas_engine.training import Example
from search_spaces import SpaceTemplate, lora_rank, mlp_width, sparsity, weight_bits

RANKS = (32, 16, 8)
LEARNING_RATE = 1e-3
TICKS = [digit * 10**power for power in range(6) for digit in (1, 1.5, 2, 3, 5, 7)]  # of perplexity
LEVELS = {"bits": (16, 8, 4), "sparsities": (0.0, 0.2, 0.4, 0.6)}


def stored_bytes(operator: Operator) -> float:
    """Bytes of a weight without its zeros, a bit a weight saying which, or dense where that is less; and its scales.

    What has no grid counts as half precision, also where it is computed in single.
    """
    elements = operator.k * operator.n
    dense = elements * min(operator.weight_bits, 16) / 8
    return min(dense, dense * (1 - operator.sparsity) + elements / 8) + operator.scale_bytes


@cost_model(unit="bytes")
def layer_bytes(subnet: Subnetwork) -> float:
    """Stored bytes of the layers' weights."""
    return sum(
        stored_bytes(op)
        for op in subnet.operators(batch=1, tokens=1)
        if op.kind == "weight" and op.name.startswith("layers.")
    )


class Perplexity:
    """Perplexity on the evaluation texts, as an objective."""

    name, direction, unit = "perplexity", "minimize", ""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def settings(self) -> dict[str, int]:
        """How many texts."""
        return {"texts": sum(len(batch["input_ids"]) for batch in self.batches)}

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Measure the active sub-network."""
        return Measurement(perplexity(subnet.model, self.batches))


def spaces(per_gene: int, group_size: int) -> dict[str, SpaceTemplate]:
    """The single dimensions, each with adapters of the largest rank, and their sum."""
    rank, largest = lora_rank(RANKS, layers_per_gene=per_gene), lora_rank(RANKS[:1])
    width = mlp_width((1.0, 0.875, 0.75, 0.5), multiple_of=group_size, layers_per_gene=per_gene)
    bits = weight_bits(LEVELS["bits"], layers_per_gene=per_gene)  # type: ignore[arg-type]
    zeros = sparsity(LEVELS["sparsities"], layers_per_gene=per_gene)
    return {
        "rank": rank,
        "width": largest + width,
        "bits": largest + bits,
        "sparsity": largest + zeros,
        "joint": rank + width + bits + zeros,
    }


def dominated(points: pd.DataFrame, by: pd.DataFrame) -> float:
    """The fraction of `points` that some row of `by` dominates; both have the columns perplexity and layer_bytes."""
    ours, theirs = (frame[["perplexity", "layer_bytes"]].to_numpy() for frame in (by, points))
    no_worse = (ours[:, None] <= theirs[None]).all(2)
    better = (ours[:, None] < theirs[None]).any(2)
    return float(np.mean((no_worse & better).any(0)))


def volume(front: pd.DataFrame, dense_bytes: float, best: float) -> float:
    """The hypervolume of a front; `best` is the perplexity that counts as 0."""
    points = np.column_stack([front["layer_bytes"] / dense_bytes, np.log10(front["perplexity"] / best)])
    return float(hypervolume(np.maximum(points, 0.0), ref=(1.0, 1.0)))


def draw(fronts: dict[str, pd.DataFrame], file: Path) -> None:
    """The fronts as step lines."""
    figure = Figure(figsize=(5, 3.5))
    axes = figure.add_subplot()
    for name, front in fronts.items():
        front = front.sort_values("layer_bytes")
        axes.step(
            front["layer_bytes"] / 1e6,
            front["perplexity"],
            where="post",
            marker="o",
            markersize=3,
            label=name,
            linewidth=2.2 if name == "joint" else 1.2,
            linestyle="-" if name == "joint" else "--",
        )
    axes.set(xlabel="bytes of the layers' weights (MB)", ylabel="perplexity", yscale="log")
    low, high = axes.get_ylim()
    axes.set_yticks([tick for tick in TICKS if low <= tick <= high], minor=False)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False)
    figure.savefig(file, dpi=200, bbox_inches="tight")


def main() -> None:
    """Train and search each space, and print one JSON object."""
    parser = arguments(__doc__)
    parser.add_argument("--evaluations", type=int, default=0, help="of each space; default 60")
    parser.add_argument("--steps", type=int, default=0, help="training steps of each super-network; default 100")
    parser.add_argument("--driver", default="auto", help="of `nas_engine.search`")
    parser.add_argument("--data", type=Path, help="a JSONL file of questions; without it, generated problems")
    parser.add_argument("--folder", type=Path, default=Path("runs/joint_space"), help="for all that is kept")
    parser.add_argument("--figure", type=Path, help="default: fronts.png in the folder")
    given = parser.parse_args()
    evaluations = given.evaluations or (6 if given.quick else 60)
    steps = given.steps or (2 if given.quick else 100)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if given.quick else given.folder
        model, tokenizer = load(given.quick)
        group_size = 32 if given.quick else 64
        lines, judged = texts(given.data, *((16, 8) if given.quick else (1800, 64)))
        calibration, evaluation = batched(lines[:256], tokenizer), batched(judged, tokenizer)
        model = ordered(model, tokenizer, calibration)
        build_database(model, calibration, folder / "database", group_size=group_size, refit=True, **LEVELS)  # type: ignore[arg-type]
        fronts = {}
        examples = [Example("", line) for line in lines]
        for name, space in spaces(2 if given.quick else 5, group_size).items():
            database = LayerDatabase(folder / "database")
            supernet = SuperNetwork.from_pretrained(
                copy.deepcopy(model), space, tokenizer, combination="quantized", database=database
            )
            train(supernet, examples, steps, learning_rate=LEARNING_RATE, checkpoint=folder / name / "training")
            result = search(
                supernet,
                [Perplexity(evaluation), layer_bytes],
                given.driver,
                evaluations,
                4 if given.quick else 12,
                storage=folder / name,
            )
            fronts[name] = result.front
            print(name, result.front[["layer_bytes", "perplexity"]].to_string(index=False), flush=True)
        draw(fronts, given.figure or folder / "fronts.png")
    dense_bytes = float(result.reference["layer_bytes"])
    best = min(float(front["perplexity"].min()) for front in fronts.values())
    joint = fronts["joint"]
    print_json(
        {
            "evaluations": evaluations,
            "steps": steps,
            "best": round(best, 3),
            "dominated_by_joint": {n: round(dominated(f, joint), 3) for n, f in fronts.items() if n != "joint"},
            "joint_dominated_by": {n: round(dominated(joint, f), 3) for n, f in fronts.items() if n != "joint"},
            "hypervolume": {n: round(volume(f, dense_bytes, best), 4) for n, f in fronts.items()},
            "fronts": {
                n: f[["layer_bytes", "perplexity"]].round(3).sort_values("layer_bytes").to_numpy().tolist()
                for n, f in fronts.items()
            },
        }
    )


if __name__ == "__main__":
    main()
