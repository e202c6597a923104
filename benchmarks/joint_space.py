"""One space of rank, width, bits and sparsity against each of them alone, in one super-network, at equal evaluations.

SmolLM2-135M is ordered, its versions are put on disk, sparse ones refitted, and one super-network is trained over all
four dimensions, in turns. Then each space is searched in it by the same driver, for as many evaluations: in that of a
single dimension, all others stay at their largest. Perplexity on held-out texts is set against three costs of the
layers, a search for each; those of a single dimension rise and fall together, so that one search serves all:

- bytes: nonzeros at their bits, and a bit a weight that says which are zero where that is less;
- parameters that are not zero;
- latency on paper: reading 256 tokens and writing 32 on a Raspberry Pi 5 whose kernels skip zeros. Bits save traffic,
  which limits writing; zeros and widths save arithmetic, which limits reading.

Adapters are merged and cost nothing, so that the front of ranks alone is a single point. A front's point is dominated
where the joint front has one that is no worse in both and better in one; `joint_exceeds_by` says how much more
perplexity the joint front has at no more cost than a point, where that is most. Hypervolume counts a cost as a fraction
of the largest sub-network's and perplexity by its logarithm, from `best`, the least that any space found, 0, to ten
times as much, 1.

Run as ``python -m benchmarks.joint_space [--quick] [--data questions.jsonl] [--evaluations N] [--steps N]
[--judged N] [--driver NAME] [--sensitivity N] [--device cuda] [--folder FOLDER] [--figure FILE.png]``; interrupted,
it goes on.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from moocore import hypervolume
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks._common import add_device, arguments, load, print_json, texts
from benchmarks.quantization_error import batched
from evaluators import Operator, Perplexity, Subnetwork, cost_model, load_device
from evaluators.cost.roofline import roofline_seconds
from nas_engine import SuperNetwork, search, train
from nas_engine.compression.database import LayerDatabase
from nas_engine.compression.database_building import build_database
from nas_engine.jobs.recipes import ordered
from nas_engine.models import moved
from nas_engine.results.dominance import non_dominated
from nas_engine.training import Example
from search_spaces import SpaceTemplate, lora_rank, mlp_width, sparsity, weight_bits

RANKS = (32, 16, 8)
LEARNING_RATE = 1e-3
TICKS = [digit * 10**power for power in range(6) for digit in (1, 1.5, 2, 3, 5, 7)]  # of perplexity
LEVELS: dict[str, Any] = {"bits": (16, 8, 4), "sparsities": (0.0, 0.2, 0.4, 0.6)}
READ, WRITTEN = 256, 32  # tokens
# The cost that a single dimension is searched against; its others rise and fall with that one.
GUIDES = {"rank": "layer_bytes", "width": "nonzeros", "bits": "layer_bytes", "sparsity": "nonzeros"}
DEVICE = replace(load_device("raspberry-pi-5"), skips_zeros=True)
COSTS = {  # by the evaluator's name: the axis's label, and what its unit is divided by
    "layer_bytes": ("bytes of the layers (MB)", 1e6),
    "nonzeros": ("nonzero parameters of the layers (million)", 1e6),
    "latency": ("latency on paper (s)", 1e3),
}


def layer_operators(subnet: Subnetwork, tokens: int = 1, past: int = 0) -> list[Operator]:
    """The products of the layers, in half precision what has no grid, also where it is computed in single."""
    return [
        replace(op, weight_bits=min(op.weight_bits, 16), activation_bits=16)
        for op in subnet.operators(1, tokens, past)
        if op.name.startswith("layers.")
    ]


@cost_model(unit="B")
def layer_bytes(subnet: Subnetwork) -> float:
    """Stored bytes of the layers' weights, with their scales."""
    return sum(op.sparse_weight_bytes for op in layer_operators(subnet))


@cost_model()
def nonzeros(subnet: Subnetwork) -> float:
    """Weights of the layers that are not zero."""
    return sum(op.elements - op.zeros for op in layer_operators(subnet) if op.kind == "weight")


@cost_model(unit="ms")
def latency(subnet: Subnetwork) -> float:
    """Roofline time of the layers to read a prompt and to write the answer."""
    reading = sum(roofline_seconds(op, DEVICE) for op in layer_operators(subnet, READ))
    writing = sum(roofline_seconds(op, DEVICE) for op in layer_operators(subnet, 1, READ))
    return 1e3 * (reading + WRITTEN * writing)


def spaces(per_gene: int, group_size: int) -> dict[str, SpaceTemplate]:
    """The single dimensions, each with adapters of the largest rank, and their sum."""
    rank, largest = lora_rank(RANKS, layers_per_gene=per_gene), lora_rank(RANKS[:1])
    width = mlp_width((1.0, 0.875, 0.75, 0.5), multiple_of=group_size, layers_per_gene=per_gene)
    bits = weight_bits(LEVELS["bits"], layers_per_gene=per_gene)
    zeros = sparsity(LEVELS["sparsities"], layers_per_gene=per_gene)
    return {
        "rank": rank,
        "width": largest + width,
        "bits": largest + bits,
        "sparsity": largest + zeros,
        "joint": rank + width + bits + zeros,
    }


def front_of(frame: pd.DataFrame, cost: str) -> pd.DataFrame:
    """The rows that no other dominates in perplexity and `cost`."""
    frame = frame[frame["error"] == ""]
    return frame[non_dominated(frame[["perplexity", cost]].to_numpy(dtype=float))]


def dominated(points: pd.DataFrame, by: pd.DataFrame, cost: str) -> float:
    """The fraction of `points` that some row of `by` dominates; both have the columns perplexity and `cost`."""
    ours, theirs = (frame[["perplexity", cost]].to_numpy() for frame in (by, points))
    no_worse = (ours[:, None] <= theirs[None]).all(2)
    better = (ours[:, None] < theirs[None]).any(2)
    return float(np.mean((no_worse & better).any(0)))


def excess(points: pd.DataFrame, by: pd.DataFrame, cost: str) -> float:
    """The part by which the perplexity of `by` exceeds that of `points` at no more cost, where that is most.

    The epsilon indicator (Zitzler et al., 2003) in one objective: below 0 all points are dominated.
    """
    affordable = by[cost].to_numpy() <= points[cost].to_numpy()[:, None]  # (points, by)
    ratios = by["perplexity"].to_numpy() / points["perplexity"].to_numpy()[:, None]
    return float(np.where(affordable, ratios, np.inf).min(1).max() - 1)


def volume(front: pd.DataFrame, cost: str, most: float, best: float) -> float:
    """The hypervolume of a front; the cost `most` counts as 1, the perplexity `best` as 0."""
    points = np.column_stack([front[cost] / most, np.log10(front["perplexity"] / best)])
    return float(hypervolume(np.maximum(points, 0.0), ref=(1.0, 1.0)))


def draw(fronts: dict[str, dict[str, pd.DataFrame]], file: Path) -> None:
    """The fronts as step lines, a panel a cost."""
    figure = Figure(figsize=(3.6 * len(fronts), 3.5))
    panels = figure.subplots(1, len(fronts), sharey=True, squeeze=False)[0]
    for axes, (cost, of_spaces) in zip(panels, fronts.items(), strict=True):
        label, unit = COSTS[cost]
        for name, front in of_spaces.items():
            front = front.sort_values(cost)
            axes.step(
                front[cost] / unit,
                front["perplexity"],
                where="post",
                marker="o",
                markersize=3 if len(front) > 1 else 7,  # ranks alone: all at one cost
                label=name,
                linewidth=2.2 if name == "joint" else 1.2,
                linestyle="-" if name == "joint" else "--",
            )
        axes.set(xlabel=label, yscale="log")
    low, high = panels[0].get_ylim()
    panels[0].set_yticks([tick for tick in TICKS if low <= tick <= high], minor=False)
    panels[0].yaxis.set_major_formatter("{x:g}")
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("perplexity")
    panels[-1].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file, dpi=200, bbox_inches="tight")


def trained(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    templates: dict[str, SpaceTemplate],
    lines: Sequence[str],
    steps: int,
    folder: Path,
) -> dict[str, SuperNetwork]:
    """Super-networks of all spaces, with the adapters of the joint one."""
    made = {
        name: SuperNetwork.from_pretrained(
            copy.deepcopy(model),
            space,
            tokenizer,
            adapter_mode="quantized",
            database=LayerDatabase(folder / "database"),
        )
        for name, space in templates.items()
    }
    examples = [Example("", line) for line in lines]
    checkpoint = folder / "training"
    train(made["joint"], examples, steps=steps, learning_rate=LEARNING_RATE, strategy="cycle", checkpoint=checkpoint)
    state = made["joint"].state()
    for supernet in made.values():
        supernet.load_state(state)
    return made


def figures(cost: str, fronts: dict[str, pd.DataFrame], most: float, best: float) -> dict[str, Any]:
    """What is printed of the fronts against one cost; `most` and `best` as `volume` takes them."""
    joint = fronts["joint"]
    return {
        "dominated_by_joint": {n: round(dominated(f, joint, cost), 3) for n, f in fronts.items() if n != "joint"},
        "joint_exceeds_by": {n: round(excess(f, joint, cost), 4) for n, f in fronts.items() if n != "joint"},
        "joint_dominated_by": {n: round(dominated(joint, f, cost), 3) for n, f in fronts.items() if n != "joint"},
        "hypervolume": {n: round(volume(f, cost, most, best), 4) for n, f in fronts.items()},
        "fronts": {
            n: f[[cost, "perplexity"]].round(3).sort_values(cost).to_numpy().tolist() for n, f in fronts.items()
        },
    }


def main() -> None:
    """Train once, search each space against each cost, and print one JSON object."""
    parser = arguments(__doc__)
    parser.add_argument("--evaluations", type=int, default=0, help="of each search; default 60")
    parser.add_argument("--steps", type=int, default=0, help="training steps; default 150")
    parser.add_argument("--judged", type=int, default=64, help="texts that perplexity is measured on, 64 at most")
    parser.add_argument("--driver", default="auto", help="of `nas_engine.search`")
    parser.add_argument("--data", type=Path, help="a JSONL file of questions; without it, generated problems")
    parser.add_argument("--sensitivity", type=int, default=0, help="texts that tell a search which genes matter")
    add_device(parser)
    parser.add_argument("--folder", type=Path, default=Path("runs/joint_space"), help="for all that is kept")
    parser.add_argument("--figure", type=Path, help="default: fronts.png in the folder")
    given = parser.parse_args()
    evaluations = given.evaluations or (6 if given.quick else 60)
    steps = given.steps or (2 if given.quick else 150)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if given.quick else given.folder
        model, tokenizer = load(given.quick)
        group_size = 32 if given.quick else 64
        lines, judged = texts(given.data, *((16, 8) if given.quick else (1800, 64)))
        calibration = batched(lines[:256], tokenizer)
        model = ordered(moved(model, given.device), tokenizer, calibration)
        build_database(model, calibration, folder / "database", group_size=group_size, refit=True, **LEVELS)
        supernets = trained(model, tokenizer, spaces(2 if given.quick else 5, group_size), lines, steps, folder)
        evaluators = [Perplexity(judged[: given.judged]), layer_bytes, nonzeros, latency]
        hint = None
        if given.sensitivity:  # a gene alone, the others at their largest, is the same in all spaces
            hint = supernets["joint"].sensitivity(batched(lines[: given.sensitivity], tokenizer))
        fronts: dict[str, dict[str, pd.DataFrame]] = {cost: {} for cost in COSTS}
        for name, supernet in supernets.items():
            single = {GUIDES[name]: tuple(COSTS)} if name in GUIDES else {}
            # What one search has measured, the next finds in the ledger.
            for guide, costs in (single or {cost: (cost,) for cost in COSTS}).items():
                print(f"{name}: perplexity and {guide}", flush=True)
                result = search(
                    supernet,
                    evaluators,
                    driver=given.driver,
                    evaluations=evaluations,
                    population=4 if given.quick else 20,
                    storage=folder / name,
                    objectives=["perplexity", guide],
                    sensitivity=hint,
                )
                for cost in costs:
                    fronts[cost][name] = front_of(result.frame, cost)
        draw(fronts, given.figure or folder / "fronts.png")
    best = min(float(front["perplexity"].min()) for of in fronts.values() for front in of.values())
    print_json(
        # The largest sub-network, the reference, is the same in all spaces.
        {"evaluations": evaluations, "steps": steps, "best": round(best, 3)}
        | {cost: figures(cost, of, float(result.reference[cost]), best) for cost, of in fronts.items()}
    )


if __name__ == "__main__":
    main()
