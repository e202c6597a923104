"""What a super-network's training gives up against plain LoRA: accuracy on held-out questions after the same steps.

PEFT's LoRA and a super-network see the same batches under the same schedule; the super-network trains a random
sub-network a step. Compared on test questions: PEFT's model, the largest sub-network, and the one whose MLPs are all
cut to 75 %. Finished trainings are kept in the folder, and an interrupted one goes on.

Run as ``python -m benchmarks.training_quality [--quick] [--steps N] [--strategy S] [--distill] [--refit]
[--data FOLDER] [--folder RUN]``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from benchmarks._common import arguments, load, print_json
from evaluators import Measurement, MultipleChoiceAccuracy, Question
from nas_engine import SuperNetwork, train
from nas_engine.data.tasks import task_splits
from nas_engine.progress import progress_bar
from nas_engine.texts.examples import batch_of, tokenize
from nas_engine.training.answers import answer_loss
from nas_engine.training.epochs import batch_indices
from nas_engine.training.settings import TrainingSettings
from search_spaces import lora_rank, mlp_width

TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
RANKS, WIDTHS = (32, 24, 16), (1.0, 0.875, 0.75)
ALPHA, LEARNING_RATE, BATCH = 64, 3e-4, 16


def questions(data: Path, count: int) -> tuple[list[Question], list[Question]]:
    """Training questions of ARC-Easy and OpenBookQA, and test questions of both, in proportion to their sizes."""
    parts = [task_splits(data / name, 5000, 1, 3000, seed=0) for name in ("arc_easy", "openbookqa")]
    held_out = [len(part.test) for part in parts]
    shares = [round(count * n / sum(held_out)) for n in held_out]
    learn = [q for part in parts for q in part.train]
    return learn, [q for part, share in zip(parts, shares, strict=True) for q in part.test[:share]]


def peft_accuracy(
    quick: bool, learn: list[Question], judge: MultipleChoiceAccuracy, steps: int, folder: Path
) -> tuple[Measurement, float]:
    """PEFT's LoRA at the largest rank, trained by the same loss, batches and schedule; its accuracy and seconds."""
    model, tokenizer = load(quick)
    seconds = 0.0
    if (folder / "adapter_config.json").exists():
        peft = PeftModel.from_pretrained(model, folder)
    else:
        config = LoraConfig(r=max(RANKS), lora_alpha=ALPHA, target_modules=[f"{name}_proj" for name in TARGETS])
        peft = get_peft_model(model, config)
        started = time.perf_counter()
        _train_peft(peft, tokenize(learn, tokenizer, 1024), steps, tokenizer.pad_token_id or 0)
        seconds = time.perf_counter() - started
        peft.save_pretrained(str(folder))
    return judge.measure(peft.merge_and_unload().eval(), tokenizer), seconds


def _train_peft(peft: Any, examples: list[Any], steps: int, pad: int) -> None:
    settings = TrainingSettings(steps=steps, batch_size=BATCH, learning_rate=LEARNING_RATE)
    parameters = [p for p in peft.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    lengths = tuple(len(example.tokens) for example in examples)
    base = peft.get_base_model().train()
    with progress_bar("PEFT", steps) as bar:
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = settings.learning_rate_at(step)
            indices = batch_indices(step, BATCH, lengths, seed=0)
            loss = answer_loss(base, batch_of([examples[i] for i in indices], pad, torch.device("cpu")))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            bar.advance(loss=loss.item())


def supernetwork(
    quick: bool, learn: list[Question], given: argparse.Namespace, steps: int, folder: Path
) -> tuple[SuperNetwork, float]:
    """A super-network of ranks and MLP widths, trained; and the seconds of this run's part of it."""
    model, tokenizer = load(quick)
    space = lora_rank(RANKS, TARGETS) + mlp_width(WIDTHS)
    supernet = SuperNetwork.from_pretrained(model, space, tokenizer, alpha=float(ALPHA))
    report = train(
        supernet,
        learn,
        steps=steps,
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        strategy=given.strategy,
        distill=given.distill,
        refit=given.refit,
        checkpoint=folder,
        checkpoint_every=20,
    )
    return supernet, report.seconds


def main() -> None:
    """Measure, and print one JSON object."""
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, help="of training (160; 3 with --quick)")
    parser.add_argument("--test", type=int, help="held-out questions (1000; 20 with --quick)")
    parser.add_argument("--strategy", default="uniform", help="uniform, sandwich or turns")
    parser.add_argument("--distill", action="store_true", help="with sandwich: learn the largest one's predictions")
    parser.add_argument("--refit", action="store_true", help="fit narrower widths to what they leave out")
    parser.add_argument("--folder", type=Path, help="where trainings are kept; a temporary one by default")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NAS_DATA", "../shared/data")))
    given = parser.parse_args()
    steps, count = given.steps or (3 if given.quick else 160), given.test or (20 if given.quick else 1000)
    if given.quick or not given.data.is_dir():
        made = task_splits("chain_sum", 4000, 1, count, seed=0)
        learn, held_out = list(made.train), list(made.test)
    else:
        learn, held_out = questions(given.data, count)
    judge = MultipleChoiceAccuracy(held_out)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        untrained = judge.measure(*load(given.quick))
        peft, peft_seconds = peft_accuracy(given.quick, learn, judge, steps, folder / "peft")
        ours = folder / f"{given.strategy}{'-distill' * given.distill}{'-refit' * given.refit}"
        supernet, seconds = supernetwork(given.quick, learn, given, steps, ours)
    space = supernet.space
    largest = space.configuration(space.largest)
    cut = largest | {gene.name: gene.values[0] for gene in space.genes if gene.dimension == "mlp_width"}
    scores = {
        "untrained": untrained,
        "peft": peft,
        "largest": judge(supernet.largest),
        "width_75": judge(supernet.subnetwork(cut)),
    }
    print_json(
        {name: {"accuracy": round(m.value, 4), "stderr": round(m.stderr, 4)} for name, m in scores.items()}
        | {
            "largest_minus_peft": round(scores["largest"].value - peft.value, 4),
            "width_75_minus_largest": round(scores["width_75"].value - scores["largest"].value, 4),
            "seconds": {"peft": round(peft_seconds, 1), "ours": round(seconds, 1)},
            "steps": steps,
            "questions": count,
            "strategy": given.strategy,
            "refit": given.refit,
        }
    )


if __name__ == "__main__":
    main()
