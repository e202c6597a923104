"""Scores every sub-network of a reduced space once, for `benchmarks.search_drivers` to search without a model.

The super-network is that of `benchmarks.evaluation_throughput`: SmolLM2-135M with LoNAS's genes, trained on ARC-Easy.
Reduced, it has one gene for the MLP width of each of seven groups of layers (100, 75 or 50 %) and its largest ranks:
2,187 sub-networks. They run depth first, so that nearly all of them compute the last layers only; for that the first
groups are the largest. Accuracy is on validation questions cut from the training ones, in bfloat16, which is twice as
fast here; parameters are counted. Interrupted, it goes on where it stopped if `--folder` is given.

With ``--sensitivity N`` it measures, instead of the table, what N training questions say of the genes beforehand (a
group's the sum over its layers), and writes that beside the table.

Run as ``python -m benchmarks.measure_table --folder RUN [--questions 300] [--quick] [--data FOLDER] [--out FILE]
[--sensitivity 64]``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from benchmarks._common import arguments, print_json
from benchmarks._table import SENSITIVITY, TABLE, save_sensitivity, save_table
from benchmarks.evaluation_throughput import trained
from evaluators import MultipleChoiceAccuracy, ParameterCount, Question
from nas_engine import SuperNetwork, search
from nas_engine.data.tasks import task_splits
from nas_engine.supernet import Subnetwork
from search_spaces import Choice, Configuration, SearchSpace

GROUPS = (9, 7, 5, 4, 2, 2, 1)
FRACTIONS = (0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Reduced:
    """A super-network with one MLP width a group of layers, and its largest ranks.

    Args:
        supernet: whose layers' widths contain the wanted ones.
        groups: numbers of consecutive layers.
    """

    supernet: SuperNetwork
    groups: Sequence[int]

    @cached_property
    def space(self) -> SearchSpace:
        """One gene a group."""
        choices, first = [], 0
        for size in self.groups:
            layers = range(first, first + size)
            values = self._gene(first).values
            widths = tuple(v for v in values if any(abs(v - f * values[-1]) < 8 for f in FRACTIONS))
            name = f"layers.{first}-{first + size - 1}.mlp.width"
            choices.append(Choice(name, widths, tuple(f"layers.{i}.mlp" for i in layers), "mlp_width"))
            first += size
        return SearchSpace.of(choices)

    @property
    def target(self) -> str | None:
        """The super-network's."""
        return self.supernet.target

    @property
    def device(self) -> str:
        """The super-network's."""
        return self.supernet.device

    def fingerprint(self) -> str:
        """The super-network's."""
        return self.supernet.fingerprint()

    def subnetwork(self, configuration: Configuration) -> Subnetwork:
        """The sub-network with these widths."""
        whole = dict(self.supernet.space.configuration(self.supernet.space.largest))
        widths = np.repeat([configuration[name] for name in self.space.names], self.groups)
        for layer, width in enumerate(widths.tolist()):
            whole[self._gene(layer).name] = width
        return self.supernet.subnetwork(whole)

    def sensitivity(self, questions: Sequence[Question]) -> dict[str, tuple[float, ...]]:
        """What these say of each value of each gene: the sum over the layers of its group, in nats."""
        whole = self.supernet.sensitivity(self.supernet.texts(questions, len(questions)))
        found, first = {}, 0
        for gene, size in zip(self.space.genes, self.groups, strict=True):
            layers = [self._gene(layer) for layer in range(first, first + size)]
            found[gene.name] = tuple(sum(whole[g.name][g.values.index(v)] for g in layers) for v in gene.values)
            first += size
        return found

    def _gene(self, layer: int) -> Choice:
        genes = self.supernet.space.genes
        return next(gene for gene in genes if gene.dimension == "mlp_width" and gene.layer == layer)


def given_arguments() -> argparse.Namespace:
    """The command line."""
    parser = arguments(__doc__)
    parser.add_argument("--questions", type=int, help="validation questions (300; 8 with --quick)")
    parser.add_argument("--steps", type=int, help="of training (120; 3 with --quick)")
    parser.add_argument("--folder", type=Path, help="where the super-network and the measurements are kept")
    parser.add_argument("--out", type=Path, help="the table; benchmarks/data by default, nowhere with --quick")
    parser.add_argument("--sensitivity", type=int, default=0, help="training questions of which it is measured instead")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NAS_DATA", "../shared/data")) / "arc_easy")
    return parser.parse_args()


def main() -> None:
    """Measure, write the table, and print one JSON object."""
    given = given_arguments()
    count = given.questions or (8 if given.quick else 300)
    task = "chain_sum" if given.quick or not given.data.is_dir() else str(given.data)
    splits = task_splits(task, 64 if given.quick else 5000, count, 2, seed=0)
    with tempfile.TemporaryDirectory() as temporary:
        given.folder = given.folder or Path(temporary)
        supernet = trained(given, splits.train)
        reduced = Reduced(supernet, (1,) * len(supernet.layers) if given.quick else GROUPS)
        if given.sensitivity:
            found = reduced.sensitivity(splits.train[: given.sensitivity])
            out = given.out or SENSITIVITY
            save_sensitivity(found, f"{given.sensitivity} training questions of {Path(task).name}", out)
            print_json({"sensitivity": found})
            return
        supernet.model.to(torch.float32 if given.quick else torch.bfloat16)  # type: ignore[arg-type]
        result = search(
            reduced,
            [MultipleChoiceAccuracy(splits.validation), ParameterCount()],
            driver="random",
            evaluations=reduced.space.size(),
            population=reduced.space.size(),  # one batch of all, so that it runs depth first as a whole
            storage=given.folder / "table",
        )
    values = result.frame[["accuracy", "parameters"]].to_numpy()
    out = given.out or (None if given.quick else TABLE)
    if out:
        description = {
            "space": reduced.space.to_json(),
            "objectives": [
                {"name": "accuracy", "direction": "maximize", "unit": "", "computed": False},
                {"name": "parameters", "direction": "minimize", "unit": "", "computed": True},
            ],
            "measured": f"SmolLM2-135M, {count} questions of {Path(task).name}, by benchmarks.measure_table",
        }
        save_table(np.array([record.genome for record in result.records]), values, description, out)
    print_json(
        {
            "subnetworks": len(result),
            "failed": int((result.frame["error"] != "").sum()),
            "front": int(result.frame["on_front"].sum()),
            "accuracy": [float(values[:, 0].min()), float(values[:, 0].max())],
            "parameters": [float(values[:, 1].min()), float(values[:, 1].max())],
            "questions": count,
        }
    )


if __name__ == "__main__":
    main()
