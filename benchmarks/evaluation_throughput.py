"""How many sub-networks a minute are scored on multiple-choice questions: the engine, a plain loop, and the harness.

A super-network over LoNAS's genes is trained for a few steps (or loaded), and searched by the driver that keeps layer
prefixes for accuracy and parameters, 20 sub-networks a generation. Timed is the last generation, in the middle of a
search: there is a front to race against, and earlier layers to share, and answers are screened in bfloat16. The plain
loop gives every option a padded row of its own and computes all logits; the lm-evaluation-harness is called as it
ships; "no racing, no reuse" is the engine in fp32 with one sub-network at a time and all questions. These are timed on
a sample of the generation.

Scores are compared with the plain loop's in fp64: in fp32 its own rounding is larger than the engine's, which
`error_fp32` shows.

Run as ``python -m benchmarks.evaluation_throughput [--quick] [--questions N] [--generations N] [--sample N]
[--steps N] [--folder RUN] [--data FOLDER]``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks._common import arguments, load, print_json
from evaluators import Measurement, MultipleChoiceAccuracy, ParameterCount, Question, Racing, Screening
from evaluators.multiple_choice.racing import outcomes_of
from nas_engine import SuperNetwork, train
from nas_engine.data.tasks import task_splits
from nas_engine.drivers.driver import DriverProblem, Objectives
from nas_engine.drivers.registry import make_driver
from nas_engine.execution.executor import InProcess
from nas_engine.execution.measuring import MeasurementPlan
from nas_engine.ledger.ledger import Record
from nas_engine.results.dominance import non_dominated
from search_spaces import Genome, lonas_space

GENERATION = 20
ROWS = 16  # of a batch of the plain loop


@torch.inference_mode()
def plain(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]
) -> list[list[float]]:
    """The log-likelihood of every option, one padded row an option, logits at every position."""
    rows = []
    for question in questions:
        start = len(tokenizer(question.prompt)["input_ids"])
        rows += [(tokenizer(question.prompt + c)["input_ids"], start) for c in question.continuations]
    scores: list[float] = []
    for first in range(0, len(rows), ROWS):
        batch = rows[first : first + ROWS]
        width = max(len(ids) for ids, _ in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros(len(batch), width, dtype=torch.long)
        for row, (tokens, _) in enumerate(batch):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        likelihoods: Tensor = model(ids, attention_mask=mask, use_cache=False).logits.log_softmax(-1)
        scores += [
            likelihoods[row, torch.arange(start - 1, len(tokens) - 1), torch.tensor(tokens[start:])].sum().item()
            for row, (tokens, start) in enumerate(batch)
        ]
    options = iter(scores)
    return [[next(options) for _ in question.choices] for question in questions]


def harness(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]
) -> tuple[float, list[list[float]]] | None:
    """Seconds of the harness on the same questions, its tokenization included, and its log-likelihood of every option.

    None where it is not installed.
    """
    try:
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        lines = [{"prompt": q.prompt, "choices": list(q.choices), "answer": q.answer} for q in questions]
        data = Path(folder, "questions.jsonl")
        data.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
        task = {
            "task": "local_questions",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{prompt}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc"}],
            "num_fewshot": 0,
        }
        loaded = TaskManager(include_defaults=False).load([task])
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=ROWS)
        started = time.perf_counter()
        # `simple_evaluate` calls pip and git as well, which is no part of scoring.
        found = evaluate(wrapped, loaded, bootstrap_iters=0, log_samples=True)
        seconds = time.perf_counter() - started
    samples = sorted(found["samples"]["local_questions"], key=lambda sample: sample["doc_id"])
    return seconds, [[float(likelihood) for likelihood, _ in sample["filtered_resps"]] for sample in samples]


def trained(given: argparse.Namespace, learn: Sequence[Question]) -> SuperNetwork:
    """The super-network; kept in the folder of `given`, if there is one."""
    folder: Path | None = given.folder
    if folder and (folder / "supernet").is_dir():
        return SuperNetwork.load(folder / "supernet")
    model, tokenizer = load(given.quick)
    supernet = SuperNetwork.from_pretrained(model, lonas_space(multiple_of=8), tokenizer)
    train(supernet, learn, steps=given.steps or (3 if given.quick else 120), checkpoint=folder and folder / "training")
    if folder:
        supernet.save(folder / "supernet")
    return supernet


@dataclass
class Generation:
    """One generation of the search.

    Args:
        genomes: of its sub-networks.
        records: what was measured.
        seconds: of all of them.
        layers: run and reused, of all its forward passes.
    """

    genomes: list[Genome]
    records: list[Record]
    seconds: float
    layers: tuple[int, int]


def generations(supernet: SuperNetwork, accuracy: MultipleChoiceAccuracy, count: int) -> Iterator[Generation]:
    """The first generations of a search."""
    executor = InProcess(MeasurementPlan(supernet, [accuracy, ParameterCount()]))
    driver = make_driver("nsga2-layers", DriverProblem(supernet.space, 2, GENERATION, seed=0))
    everything: list[Record] = []
    run = reused = 0
    for _ in range(count):
        genomes = list(driver.ask())
        front = [everything[i] for i in non_dominated(objectives_of(everything)).nonzero()[0]] if everything else []
        seconds, records = timed(lambda g=genomes, f=front: list(executor.evaluate(g, f)))  # type: ignore[misc]
        by_genome = {record.genome: record for record in records}
        records = [by_genome[tuple(genome.tolist())] for genome in genomes]
        everything += records
        driver.tell(np.array(genomes), objectives_of(records))
        assert executor.batch is not None
        reuse = executor.batch.sessions[accuracy.name].reuse  # type: ignore[attr-defined]
        yield Generation(genomes, records, seconds, (reuse.layers_run - run, reuse.layers_reused - reused))
        run, reused = reuse.layers_run, reuse.layers_reused


def objectives_of(records: Sequence[Record]) -> Objectives:
    """Accuracy, negated, and parameters, shape (records, 2)."""
    return np.array([[-r.measurements[0].value, r.measurements[1].value] for r in records])


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what `action` gave."""
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result


def ranking(scores: Sequence[Any], questions: Sequence[Question]) -> list[int]:
    """The order of sub-networks by accuracy, given each one's scores of all options; ties keep their order."""
    accuracies = [
        statistics.fmean(int(np.argmax(row)) == q.answer for row, q in zip(of_one, questions, strict=True))
        for of_one in scores
    ]
    return np.argsort(accuracies, kind="stable").tolist()


def largest_difference(scores: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> float:
    """Between two scores of an option, over all questions."""
    pairs = zip(scores, expected, strict=True)
    return max(abs(a - b) for row, wanted in pairs for a, b in zip(row, wanted, strict=False) if math.isfinite(a))


def changed_answers(measurement: Measurement, scores: Sequence[Any], questions: Sequence[Question]) -> int:
    """How many questions of a measurement are answered unlike by `scores`; none of one that was dropped on the way."""
    if not measurement.outcomes:
        return 0
    right = [int(np.argmax(row)) == question.answer for row, question in zip(scores, questions, strict=True)]
    return int((outcomes_of(measurement) != right).sum())


def given_arguments() -> argparse.Namespace:
    """The command line."""
    parser = arguments(__doc__)
    parser.add_argument("--questions", type=int, help="validation questions (300; 40 with --quick)")
    parser.add_argument("--generations", type=int, default=3, help="of the search; the last one is timed")
    parser.add_argument("--sample", type=int, default=4, help="sub-networks on which the plain loop is timed")
    parser.add_argument("--steps", type=int, help="of training (120; 3 with --quick)")
    parser.add_argument("--folder", type=Path, help="where the trained super-network is kept")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("NAS_DATA", "../shared/data")) / "arc_easy",
        help="a folder with train.jsonl and test.jsonl; without it, generated sums",
    )
    return parser.parse_args()


def main() -> None:
    """Measure, and print one JSON object."""
    given = given_arguments()
    count = given.questions or (40 if given.quick else 300)
    task = "chain_sum" if given.quick or not given.data.is_dir() else str(given.data)
    splits = task_splits(task, 64 if given.quick else 5000, count, 2, seed=0)
    questions = splits.validation
    supernet = trained(given, splits.train)
    tokenizer = supernet.tokenizer
    everything = MultipleChoiceAccuracy(questions, racing=Racing(), screening=Screening())
    alone = MultipleChoiceAccuracy(questions)
    searched = list(generations(supernet, everything, given.generations))
    last = searched[-1]
    subnets = [supernet.subnetwork(supernet.space.configuration(genome)) for genome in last.genomes]
    positions = range(0, len(subnets), max(1, len(subnets) // given.sample))[: given.sample]
    sample = [subnets[i] for i in positions]
    engine = [timed(lambda s=s: alone.scores(s.model, tokenizer).tolist()) for s in sample]  # type: ignore[misc]
    plain_loop = [timed(lambda s=s: plain(s.model, tokenizer, questions)) for s in sample]  # type: ignore[misc]
    harnessed = [found for s in sample[:2] if (found := harness(s.model, tokenizer, questions))]

    scores = [scored for _, scored in engine]
    in_fp32 = [scored for _, scored in plain_loop]
    exact = plain(sample[0].extract().double(), tokenizer, questions)
    seconds = {
        "everything": last.seconds / len(subnets),
        "no_racing_no_reuse": statistics.fmean(s for s, _ in engine),
        "plain": statistics.fmean(s for s, _ in plain_loop),
        "harness": statistics.fmean(s for s, _ in harnessed) if harnessed else None,
    }
    figures = {
        "speedup_vs_plain": seconds["plain"] / seconds["everything"],
        "speedup_vs_plain_no_racing_no_reuse": seconds["plain"] / seconds["no_racing_no_reuse"],
        "speedup_vs_harness": seconds["harness"] and seconds["harness"] / seconds["everything"],
        "max_score_difference": largest_difference(scores[0], exact),
        "error_fp32": {
            "plain": largest_difference(in_fp32[0], exact),
            "harness": largest_difference(harnessed[0][1], exact) if harnessed else None,
        },
        "max_difference_from_plain_fp32": max(map(largest_difference, scores, in_fp32)),
        "max_difference_from_harness": max(
            (largest_difference(a, b) for a, (_, b) in zip(scores, harnessed, strict=False)), default=None
        ),
        "answers_unlike_harness": sum(
            int(np.argmax(a)) != int(np.argmax(b))
            for ours, (_, theirs) in zip(scores, harnessed, strict=False)
            for a, b in zip(ours, theirs, strict=True)
        ),
        "answers_changed_by_screening": sum(
            map(changed_answers, (last.records[i].measurements[0] for i in positions), scores, repeat(questions))
        ),
        "same_ranking": ranking(scores, questions) == ranking(in_fp32, questions),
        "generations": [summary(generation, count) for generation in searched],
        "subnetworks_a_minute": {name: s and 60 / s for name, s in seconds.items()},
        "questions": count,
        "task": Path(task).name,
    }
    print_json(rounded(figures))


def summary(generation: Generation, questions: int) -> dict[str, float]:
    """What a generation cost, and where it saved."""
    asked = [record.measurements[0].n for record in generation.records]
    run, reused = generation.layers
    return {
        "seconds": generation.seconds,
        "dropped": sum(n < questions for n in asked),
        "questions_asked": statistics.fmean(asked) / questions,
        "layers_reused": reused / (run + reused),
        "lowest": min(record.measurements[0].value for record in generation.records),
        "highest": max(record.measurements[0].value for record in generation.records),
    }


def rounded(figures: Any) -> Any:
    """Six digits behind the point, at any depth."""
    if isinstance(figures, dict):
        return {name: rounded(value) for name, value in figures.items()}
    if isinstance(figures, list):
        return [rounded(value) for value in figures]
    return round(figures, 6) if isinstance(figures, float) else figures


if __name__ == "__main__":
    main()
