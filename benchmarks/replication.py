"""The papers' systems side by side on one model: accuracy, size and arithmetic of LoRA, LoNAS, Shears and SQFT's three.

SmolLM2-135M learns ARC-Easy and OpenBookQA (train), sub-adapters are compared on questions cut from train, and the
chosen one is judged by test questions of both. Every line is kept in the run folder when it is done, and training goes
on where it stopped, so that the same command continues. Answers are compared by their likelihood a character, the
harness's ``acc_norm``: by the plain sum a model of this size is below chance on OpenBookQA. Lines named ``_refit`` let
the kept weights make up for the zeros, which the papers do not; lines named ``untrained`` are the base before any
adapter. Bytes are those of half-precision weights, integers with their half-precision scales; MACs are those of the
layers' weights at 256 tokens, as LoNAS counts them.

Run as ``python -m benchmarks.replication --data FOLDER [--quick] [--steps N] [--evaluations N]
[--confirmation N] [--test N] [--seed N] [--device cuda] [--methods NAME …] [--folder RUN]``; FOLDER holds
``arc_easy/`` and ``openbookqa/`` with ``train.jsonl`` and ``test.jsonl``, and defaults to ``$NAS_DATA``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks._common import add_device, arguments, load, print_json
from evaluators import Macs, MultipleChoiceAccuracy, Question, load_questions
from nas_engine import SuperNetwork, train
from nas_engine.compression import sparsify, sparsity_report
from nas_engine.data.made import chain_sum
from nas_engine.jobs import heuristics
from nas_engine.jobs.recipes import SearchPlan, shears, sqft
from nas_engine.models import moved
from nas_engine.supernet import Subnetwork
from nas_engine.supernet.stored_form import active_grids
from nas_engine.texts.calibration import calibration_batches
from nas_engine.training import TrainingReport
from nas_engine.training.settings import TrainingSettings
from search_spaces import lonas_space, lora_rank, mlp_width, shears_space

TARGETS = ("q", "k", "v", "up", "down")
METHODS = (
    "untrained",
    "untrained_50",
    "untrained_50_refit",
    "dense_lora",
    "lonas",
    "shears_40",
    "shears_50",
    "sqft",
    "sqft_sparsepeft",
    "sqft_qa_sparsepeft",
    "shears_50_refit",
    "sqft_qa_sparsepeft_refit",
)
# Published means, from the papers: LLaMA-7B, for LoNAS and Shears over eight commonsense sets.
PUBLISHED = (
    {"method": "dense_lora", "paper": "Shears", "model": "LLaMA-7B", "accuracy": 74.7, "sparsity": 0.0},
    {"method": "shears_40", "paper": "Shears", "model": "LLaMA-7B", "accuracy": 74.9, "sparsity": 0.4},
    {"method": "shears_50", "paper": "Shears", "model": "LLaMA-7B", "accuracy": 72.5, "sparsity": 0.5},
    {
        "method": "dense_lora",
        "paper": "LoNAS",
        "model": "LLaMA-7B",
        "accuracy": 65.8,
        "macs": 1.7e12,
        "parameters": 6.7e9,
    },
    {"method": "lonas", "paper": "LoNAS", "model": "LLaMA-7B", "accuracy": 65.2, "macs": 1.4e12, "parameters": 5.6e9},
)


@dataclass(frozen=True)
class Work:
    """What every line is given."""

    train: list[Question]
    validation: list[Question]
    confirmation: list[Question]
    test: list[Question]
    steps: int
    learning_rate: float
    calibration: int
    evaluations: int
    folder: Path
    quick: bool
    seed: int = 0
    device: str = "cpu"

    @property
    def plan(self) -> TrainingSettings:
        """The same training for all lines."""
        batch_size = 4 if self.quick else TrainingSettings.batch_size
        return TrainingSettings(steps=self.steps, batch_size=batch_size, learning_rate=self.learning_rate)

    @property
    def settings(self) -> dict[str, float]:
        """What a line on disk must share to be taken from there."""
        return {
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "calibration": self.calibration,
            "evaluations": self.evaluations,
            "confirmation": len(self.confirmation),
            "test": len(self.test),
            "seed": self.seed,
        }

    @property
    def searching(self) -> SearchPlan:
        """The search for sub-adapters, if there is one, and what its best are confirmed by."""
        again = MultipleChoiceAccuracy(self.confirmation, normalize="characters") if self.confirmation else None
        drivers = ("nsga2",) if self.evaluations else ()
        return SearchPlan(drivers, self.evaluations, 4 if self.quick else 10, 1 if again is None else 3, again)

    def fresh(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model as it was."""
        model, tokenizer = load(self.quick)
        return moved(model, self.device), tokenizer


def questions(
    data: Path | None, quick: bool, confirmed: int = 0, tested: int = 500, seed: int = 0
) -> tuple[list[Question], list[Question], list[Question], list[Question]]:
    """Training, validation, confirmation and test questions.

    Args:
        data: the folder of the question sets; not needed with `quick`.
        quick: few generated questions instead.
        confirmed: how many of train confirm.
        tested: test questions of each set, or all where it has fewer.
        seed: of the draws.
    """
    if quick:
        made = chain_sum(60, seed)
        return made[confirmed:30], made[30:44], made[:confirmed], made[44:]
    assert data is not None
    learn: list[Question] = []
    judge: list[Question] = []
    for name in ("arc_easy", "openbookqa"):
        part = load_questions(data / name / "test.jsonl")
        judge += random.Random(seed).sample(part, min(tested, len(part)))
        learn += load_questions(data / name / "train.jsonl")
    held_out = {question.question for question in judge}
    learn = [question for question in learn if question.question not in held_out]
    random.Random(seed).shuffle(learn)
    return learn[300 + confirmed :], learn[:300], learn[300 : 300 + confirmed], judge


def made(method: str, work: Work) -> tuple[SuperNetwork, Subnetwork, pd.DataFrame | None, TrainingReport | None]:
    """The trained super-network, the chosen sub-network, the candidates and what training did."""
    model, tokenizer = work.fresh()
    folder = work.folder / method
    kind, refit = method.removesuffix("_refit"), method.endswith("_refit")
    if kind.startswith("untrained"):
        if kind == "untrained_50":
            sparsify(model, list(calibration_batches(work.train, tokenizer, work.calibration)), 0.5, refit=refit)
        supernet = SuperNetwork.from_pretrained(model, mlp_width((1.0,)), tokenizer)
        return supernet, supernet.subnetwork({}), None, None
    if method == "lonas":
        supernet = SuperNetwork.from_pretrained(
            model, lonas_space(32 if not work.quick else 8), tokenizer, alpha=64.0, seed=work.seed
        )
        plan = work.plan
        training = train(
            supernet,
            work.train,
            steps=plan.steps,
            batch_size=plan.batch_size,
            learning_rate=plan.learning_rate,
            seed=work.seed,
            checkpoint=folder / "training",
        )
        chosen = supernet.subnetwork(heuristics.median(supernet.space))
        return supernet, chosen, None, training
    common: dict[str, Any] = {
        "tokenizer": tokenizer,
        "training": work.plan,
        "calibration": work.calibration,
        "folder": folder,
        "seed": work.seed,
        "space": lora_rank((32,), TARGETS) if method == "dense_lora" else shears_space(),
        "searching": work.searching,
    }
    validation = MultipleChoiceAccuracy(work.validation, normalize="characters")
    if kind in ("dense_lora", "shears_40", "shears_50"):
        sparsity = {"dense_lora": 0.0, "shears_40": 0.4, "shears_50": 0.5}[kind]
        result = shears(model, work.train, validation, sparsity=sparsity, refit=refit, **common)
    else:
        adapter = kind.removeprefix("sqft_").replace("_", "-")
        grid = {"group_size": 32 if work.quick else 64}
        result = sqft(model, work.train, validation, sparsity=0.5, refit=refit, adapter=adapter, **grid, **common)  # type: ignore[arg-type]
    return result.supernet, result.chosen, result.candidates, result.training


def seconds_per_step(training: TrainingReport | None, work: Work, file: Path) -> float | None:
    """Of this run's training, noted in `file`; as noted there where an earlier run did the training."""
    if training is not None and training.resumed_at < work.steps:
        seconds = training.seconds / (work.steps - training.resumed_at)
        file.write_text(json.dumps(round(seconds, 3)), encoding="utf-8")
    return float(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def row(method: str, work: Work) -> dict[str, Any]:
    """One line of the table, kept on disk once it is known."""
    file = work.folder / f"{method}.json"
    if file.exists():
        known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if {name: known.get(name) for name in work.settings} == work.settings:
            return known
    supernet, chosen, candidates, training = made(method, work)
    if candidates is not None:
        candidates.to_csv(work.folder / method / "candidates.csv", index=False)
    seconds = seconds_per_step(training, work, work.folder / method / "seconds_per_step.json")
    test = MultipleChoiceAccuracy(work.test, normalize="characters")
    accuracy = test(chosen)
    middle = heuristics.median(supernet.space) if len(supernet.space) else chosen.configuration
    median = accuracy if middle == chosen.configuration else test(supernet.subnetwork(middle))
    chosen_parameters, macs = chosen.parameter_count(), int(Macs(tokens=256, layer_weights_only=True)(chosen).value)
    report = sparsity_report(supernet.model)
    grids = active_grids(supernet)
    on_grids = sum(grid.scale.shape[0] * grid.inputs for grid in grids.values())
    figures: dict[str, Any] = {
        "method": method,
        "sub_adapter": None if candidates is None else candidates.loc[0, "sub_adapter"],
        "accuracy": round(accuracy.value, 4),
        "stderr": round(accuracy.stderr, 4),
        "median_accuracy": round(median.value, 4),
        "sparsity": round(float(report["zeros"].sum() / report["weights"].sum()), 4),
        "bits": next((grid.settings.bits for grid in grids.values()), 16),
        "bytes": 2 * (chosen_parameters - on_grids) + sum(g.to_half().stored_bytes for g in grids.values()),
        "parameters": chosen_parameters,
        "macs": macs,
        "mergeable": all(linear.merges for linear in supernet.elastic_linears.values()),
        "seconds_per_step": seconds,
    } | work.settings
    file.write_text(json.dumps(figures) + "\n", encoding="utf-8")
    return figures


def main() -> None:
    """Measure the lines, and print one JSON object."""
    parser: argparse.ArgumentParser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("NAS_DATA"), help="folder of the question sets")
    parser.add_argument("--steps", type=int, default=0, help="training steps of each line; default 160")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="peak, of each line")
    parser.add_argument("--calibration", type=int, default=0, help="training examples for Wanda and GPTQ; default 512")
    parser.add_argument("--evaluations", type=int, default=0, help="of NSGA-II over sub-adapters; default none")
    parser.add_argument("--confirmation", type=int, default=0, help="training questions that confirm the best found")
    parser.add_argument("--test", type=int, default=500, help="test questions of each set; default 500")
    parser.add_argument("--seed", type=int, default=0, help="of adapters and training")
    add_device(parser)
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--folder", type=Path, default=Path("runs/replication"))
    given = parser.parse_args()
    data = None if given.data is None else Path(given.data)
    if not given.quick and (data is None or not (data / "arc_easy" / "train.jsonl").exists()):
        print_json({"rows": [], "skipped": f"no question sets in {data}; name their folder by --data or NAS_DATA"})
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if given.quick else given.folder
        steps = given.steps or (3 if given.quick else 160)
        evaluations = given.evaluations or (6 if given.quick else 0)
        calibration = given.calibration or (16 if given.quick else 512)
        work = Work(
            *questions(data, given.quick, given.confirmation or (6 if given.quick else 0), given.test),
            steps,
            given.learning_rate,
            calibration,
            evaluations,
            folder,
            given.quick,
            given.seed,
            given.device,
        )
        rows = [row(method, work) for method in given.methods]
    plain = next((r["seconds_per_step"] for r in rows if r["method"] == "dense_lora"), None)
    for line in rows:
        own = line["seconds_per_step"]
        line["training_ratio"] = round(own / plain, 3) if own and plain else None
    print(pd.DataFrame(rows).to_string(index=False))
    print_json({"rows": rows, "published": list(PUBLISHED)})


if __name__ == "__main__":
    main()
