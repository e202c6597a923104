"""How many sub-networks a minute are scored on multiple-choice questions: the engine, a plain loop, and the harness.

The generation is the second one of an NSGA-II search for accuracy and parameters over LoNAS's genes: 20 sub-networks,
and the front of the first generation is known. The plain loop gives every option a padded row of its own and computes
all logits; the lm-evaluation-harness is called as it ships; "no racing, no reuse" is the engine with one sub-network at
a time and all questions. These are timed on a sample of the generation, the engine with everything on the whole of it.

Run as ``python -m benchmarks.evaluation_throughput [--quick] [--questions N] [--sample N] [--data FOLDER]``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks._common import arguments, batch_of, load, print_json
from evaluators import MultipleChoiceAccuracy, ParameterCount, Question, Racing
from nas_engine import Subnetwork, SuperNetwork
from nas_engine.front import non_dominated
from nas_engine.search import Record, make_driver
from nas_engine.search.driver import DriverProblem
from nas_engine.search.executor import InProcess
from nas_engine.search.measuring import Job
from nas_engine.tasks import task_splits
from search_spaces import Genome, lonas

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
        likelihoods: Tensor = model(ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)
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
        from lm_eval import simple_evaluate
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
        }
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=ROWS)
        started = time.perf_counter()
        found = simple_evaluate(wrapped, tasks=[task], task_manager=TaskManager(), bootstrap_iters=0, log_samples=True)
        seconds = time.perf_counter() - started
    samples = sorted(found["samples"]["local_questions"], key=lambda sample: sample["doc_id"])
    return seconds, [[float(likelihood) for likelihood, _ in sample["filtered_resps"]] for sample in samples]


def generation(
    supernet: SuperNetwork, executor: InProcess[Subnetwork], seed: int = 0
) -> tuple[list[Genome], list[Record]]:
    """The second generation of a search, and the front of the first."""
    driver = make_driver("nsga2", DriverProblem(supernet.space, 2, GENERATION, seed))
    first = driver.ask()
    records = {record.genome: record for record in executor.evaluate(list(first), [])}
    found = [records[tuple(genome.tolist())] for genome in first]
    objectives = np.array([[-r.measurements[0].value, r.measurements[1].value] for r in found])
    driver.tell(first, objectives)
    return list(driver.ask()), [r for r, kept in zip(found, non_dominated(objectives), strict=True) if kept]


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


def differences(ours: Tensor, expected: list[list[float]]) -> list[float]:
    """How far the engine's scores, shape (questions, choices), are from the plain loop's."""
    pairs = zip(ours.tolist(), expected, strict=True)
    return [abs(a - b) for row, wanted in pairs for a, b in zip(row, wanted, strict=False)]


def given_arguments() -> argparse.Namespace:
    """The command line."""
    parser = arguments(__doc__)
    parser.add_argument("--questions", type=int, help="validation questions (300; 40 with --quick)")
    parser.add_argument("--sample", type=int, default=4, help="sub-networks on which the plain loop is timed")
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
    splits = task_splits(task, 64, count, 2, seed=0)
    questions = splits.validation
    model, tokenizer = load(given.quick)
    supernet = SuperNetwork.from_pretrained(model, lonas(multiple_of=8), tokenizer)
    supernet.order_by_importance([batch_of([q.prompt + q.completion for q in splits.train], tokenizer)])
    racing, alone = MultipleChoiceAccuracy(questions, racing=Racing()), MultipleChoiceAccuracy(questions)
    executor = InProcess(Job(supernet, [racing, ParameterCount()]))
    genomes, front = generation(supernet, executor)
    subnets = [supernet.subnetwork(supernet.space.configuration(genome)) for genome in genomes]

    everything, raced = timed(lambda: list(executor.evaluate(genomes, front)))
    sample = subnets[:: max(1, len(subnets) // given.sample)]
    engine = [timed(partial(alone, subnet)) for subnet in sample]
    plain_loop = [timed(lambda s=s: plain(s.model, tokenizer, questions)) for s in sample]  # type: ignore[misc]
    harnessed = [found for s in sample[:2] if (found := harness(s.model, tokenizer, questions))]

    scores = [alone.scores(s.model, tokenizer) for s in sample]
    expected = [scored for _, scored in plain_loop]
    asked = [record.measurements[0].n for record in raced]
    seconds = {
        "everything": everything / len(subnets),
        "no_racing_no_reuse": statistics.fmean(s for s, _ in engine),
        "plain": statistics.fmean(s for s, _ in plain_loop),
        "harness": statistics.fmean(s for s, _ in harnessed) if harnessed else None,
    }
    figures = {
        "speedup_vs_plain": seconds["plain"] / seconds["everything"],
        "speedup_vs_plain_no_racing_no_reuse": seconds["plain"] / seconds["no_racing_no_reuse"],
        "speedup_vs_harness": seconds["harness"] and seconds["harness"] / seconds["everything"],
        "max_score_difference": max(max(differences(a, b)) for a, b in zip(scores, expected, strict=True)),
        "max_difference_from_harness": max(
            (max(differences(a, b)) for a, (_, b) in zip(scores, harnessed, strict=False)), default=None
        ),
        "same_ranking": ranking(scores, questions) == ranking(expected, questions),
        "dropped": sum(n < count for n in asked),
        "questions_asked": statistics.fmean(asked) / count,
        "subnetworks_a_minute": {name: s and round(60 / s, 2) for name, s in seconds.items()},
        "questions": count,
        "task": Path(task).name,
    }
    print_json({name: round(v, 6) if isinstance(v, float) else v for name, v in figures.items()})


if __name__ == "__main__":
    main()
