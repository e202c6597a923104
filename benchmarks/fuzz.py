"""Wrong input of every kind: is each accepted and right, or refused with a sentence?

Spaces, results, ledgers, questions, problems, device sheets, latency tables, run folders, checkpoints, adapters,
super-networks, quantized models, databases of layers and command lines are spoiled at random, seeded. `tracebacks`
counts errors that are not this project's, among them inputs that take more than ten seconds of a processor;
`touched` counts files that reading changed; `wrong` counts what was accepted and does not come back as it was given.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from typer.testing import CliRunner

from benchmarks._common import arguments, load, print_json
from benchmarks._fuzz import digest, fault, spoil, spoil_folder
from evaluators import (
    LatencyTable,
    Measurement,
    MultipleChoiceAccuracy,
    ParameterCount,
    Problem,
    device_names,
    load_device,
    load_problems,
    load_questions,
    save_questions,
)
from evaluators.latency.workload import Workload
from evaluators.latency_table.block_costs import BlockKnots, DecoderCosts
from nas_engine import SuperNetwork, search, train
from nas_engine.cli import app
from nas_engine.compression.checkpoint import load_base, save_quantized
from nas_engine.compression.database import LayerDatabase
from nas_engine.compression.database_building import build_database
from nas_engine.compression.quantization import quantize_model
from nas_engine.data.made import chain_sum
from nas_engine.jobs.finalists import remembered
from nas_engine.jobs.hints import kept_sensitivity
from nas_engine.ledger.ledger import Ledger
from nas_engine.results.result import SearchResult
from nas_engine.texts.calibration import calibration_batches
from search_spaces import SearchSpace, lora_rank, mlp_width

SPACE = lora_rank((4, 2), ("q", "v", "up", "down")) + mlp_width((1.0, 0.75, 0.5), multiple_of=8)
QUESTIONS = chain_sum(40, seed=0)
EVALUATORS = [MultipleChoiceAccuracy(QUESTIONS[:4]), ParameterCount()]


@dataclass(frozen=True)
class Surface:
    """Something that reads what others may have written.

    Args:
        part: of all inputs.
        whole: the file or folder that is spoiled.
        read: what is done with a spoiled copy; where it is accepted, what is wrong with it, or None.
        may_change: whether the copy may be mended or gone on with, where it is accepted.
    """

    part: float
    whole: Path
    read: Callable[[Path], str | None]
    may_change: bool = False


def surfaces(here: Path) -> dict[str, Surface]:
    """All of them, with whole files and folders below `here`."""
    model, tokenizer = load(True)
    supernet = SuperNetwork.from_pretrained(model, SPACE, tokenizer)
    train(supernet, QUESTIONS, steps=1, batch_size=2, checkpoint=here / "training", progress=False)
    supernet.save(here / "supernet", include_base=True)
    supernet.largest.save_adapter(here / "adapter")
    result = search(
        supernet, EVALUATORS, driver="random", evaluations=4, population=4, storage=here / "ledger", progress=False
    )
    result.to_json(here / "result.json")
    (here / "space.json").write_text(json.dumps(supernet.space.to_json()), encoding="utf-8")
    save_questions(QUESTIONS, here / "questions.jsonl")
    problems = [json.dumps({"question": f"{i} + 1?", "answer": f"#### {i + 1}"}) for i in range(4)]
    (here / "problems.jsonl").write_text("\n".join(problems) + "\n", encoding="utf-8")
    load_device(device_names()[0]).save(here / "device.json")
    _table().save(here / "table.json")
    (here / "finalists.json").write_text(json.dumps({"0123456789abcdef": [0.5, 0.1, 20]}), encoding="utf-8")
    genes = {gene.name: [0.1] * len(gene) for gene in supernet.space.genes}
    (here / "sensitivity.json").write_text(json.dumps({"made_with": ["f", 4], "genes": genes}), encoding="utf-8")
    quantized, _ = load(True)
    batches = list(calibration_batches(QUESTIONS, tokenizer, 4))
    save_quantized(quantized, tokenizer, quantize_model(quantized, batches, group_size=32), here / "quantized")
    build_database(load(True)[0], batches, here / "database", (16, 4), (0.0, 0.5), group_size=32)
    (here / "run").mkdir()
    save_questions(QUESTIONS, here / "run" / "task.jsonl")
    opened = partial(_ledger, supernet=supernet)
    return {
        "space": Surface(0.16, here / "space.json", _space),
        "questions": Surface(0.14, here / "questions.jsonl", _questions),
        "problems": Surface(0.08, here / "problems.jsonl", _problems),
        "device": Surface(0.14, here / "device.json", _device),
        "result": Surface(0.12, here / "result.json", _result),
        "latency table": Surface(0.08, here / "table.json", _latency_table),
        "ledger": Surface(0.08, here / "ledger", opened, may_change=True),
        "ledger alone": Surface(0.04, here / "ledger", _ledger_alone),
        "finalists": Surface(0.02, here / "finalists.json", _finalists, may_change=True),
        "sensitivity": Surface(0.02, here / "sensitivity.json", partial(_sensitivity, space=supernet.space)),
        "checkpoint": Surface(0.02, here / "training", partial(_checkpoint, supernet=supernet), may_change=True),
        "adapter": Surface(0.02, here / "adapter", partial(_adapter, supernet=supernet)),
        "database": Surface(0.02, here / "database", _database),
        "supernet": Surface(0.02, here / "supernet", _supernet),
        "quantized": Surface(0.01, here / "quantized", _quantized),
        "command line": Surface(0.03, here / "run", _command),
    }


def fuzz(inputs: int, seed: int, here: Path) -> Iterator[tuple[str, str, str]]:
    """Read `inputs` spoiled inputs; gives surface, kind (``traceback``, ``touched``, ``wrong``) and details of faults.

    The last one of each surface is ``("…", "inputs", number)``.
    """
    (here / "whole").mkdir()
    for name, surface in surfaces(here / "whole").items():
        source = random.Random(f"{seed} {name}")
        count = max(1, round(inputs * surface.part))
        for number in range(count):
            copy = here / f"{number}" / surface.whole.name
            (shutil.copytree if surface.whole.is_dir() else _copy)(surface.whole, copy)
            torch.manual_seed(0)
            (spoil_folder if surface.whole.is_dir() else spoil)(copy, source)
            before, answers = digest(copy), []
            found = fault(lambda: answers.append(surface.read(copy)))  # noqa: B023
            kept = here / "faults" / f"{name} {number}"
            if found:
                yield name, "traceback", f"{number}: {found}"
            elif answers and answers[0]:
                yield name, "wrong", f"{number}: {answers[0]}"
            elif digest(copy) != before and not (surface.may_change and answers):
                yield name, "touched", f"{number}"
            else:
                kept = None
            if kept is None:
                shutil.rmtree(copy.parent)
            else:
                kept.parent.mkdir(exist_ok=True)
                copy.parent.rename(kept)
        yield name, "inputs", str(count)


def _copy(file: Path, to: Path) -> None:
    to.parent.mkdir()
    shutil.copy(file, to)


def _same(found: object, given: object, what: str) -> str | None:
    return None if found == given else f"{what}: {str(found)[:200]} for {str(given)[:200]}"


def _space(file: Path) -> str | None:
    try:
        data = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return None  # files of spaces alone are not read by anything
    space = SearchSpace.from_json(data)
    if space.genes:
        space.configuration(space.largest)
    return _same(space.to_json(), data, "another space") or _same(
        SearchSpace.from_json(space.to_json()), space, "no round trip"
    )


def _questions(file: Path) -> str | None:
    found = load_questions(file)
    save_questions(found, file.with_name("again.jsonl"))
    return _same(load_questions(file.with_name("again.jsonl")), found, "no round trip")


def _problems(file: Path) -> str | None:
    return None if all(isinstance(problem, Problem) for problem in load_problems(file)) else "no problems"


def _device(file: Path) -> str | None:
    device = load_device(file)
    device.operations_per_second(min(device.peak_tflops))
    device.save(file.with_name("again.json"))
    return _same(load_device(file.with_name("again.json")), device, "no round trip")


def _result(file: Path) -> str | None:
    result = SearchResult.load(file)
    result.to_json(file.with_name("again.json"))
    again = SearchResult.load(file.with_name("again.json"))
    return _same(repr(again.records), repr(result.records), "no round trip") or _same(
        again.supernet.space, result.supernet.space, "another space"
    )


def _table() -> LatencyTable:
    heads, widths = BlockKnots("query heads", (2, 4), True), BlockKnots("MLP width", (32, 64), True)
    costs = DecoderCosts(10.0, heads, (-2.0, -1.0, 0.0), widths, (-3.0, -1.5, 0.0), 0.1)
    return LatencyTable(costs, Workload(), "a device", "cpu", 1, None, {"type": "llama", "layers": 4})


def _latency_table(file: Path) -> str | None:
    table = LatencyTable.load(file, any_device=True)
    table.save(file.with_name("again.json"))
    return _same(LatencyTable.load(file.with_name("again.json"), any_device=True), table, "no round trip")


def _ledger(folder: Path, supernet: SuperNetwork) -> str | None:
    ledger = Ledger(folder, supernet.space, supernet.fingerprint(), EVALUATORS)
    for record in ledger.records:
        supernet.space.configuration(record.genome)
        assert record.error or len(record.measurements) == len(EVALUATORS)
        assert all(isinstance(m, Measurement) for m in record.measurements)
    search(supernet, EVALUATORS, driver="random", evaluations=4, population=4, storage=folder, progress=False)
    return None


def _ledger_alone(folder: Path) -> str | None:
    result = SearchResult.load(folder)
    result.to_json(folder.with_name("again.json"))
    return _same(len(SearchResult.load(folder.with_name("again.json"))), len(result), "another length")


def _finalists(file: Path) -> str | None:
    numbers = remembered(file.parent, "nothing of these", lambda: [0.25])
    return _same(numbers, [0.25], "another measurement")


def _sensitivity(file: Path, space: SearchSpace) -> str | None:
    found = kept_sensitivity(file, ("f", 4), space)
    return None if found is None else _same([len(v) for v in found.values()], [len(g) for g in space.genes], "values")


def _checkpoint(folder: Path, supernet: SuperNetwork) -> str | None:
    state = supernet.state()
    model, tokenizer = load(True)
    other = SuperNetwork.from_pretrained(model, SPACE, tokenizer)
    report = train(other, QUESTIONS, steps=1, batch_size=2, checkpoint=folder, progress=False)
    return _same(set(other.state()), set(state), "other tensors") or _same(len(report.losses), 1, "steps")


def _adapter(folder: Path, supernet: SuperNetwork) -> str | None:
    state = {name: tensor.clone() for name, tensor in supernet.state().items()}
    try:
        supernet.load_adapter(folder)
    finally:
        supernet.load_state(state)
    return None


def _database(folder: Path) -> str | None:
    database = LayerDatabase(folder)
    for module in database.modules:
        for level in database.levels:
            version = database.version(module, level)
            assert version.weight.ndim == 2
    return None


@torch.inference_mode()
def _supernet(folder: Path) -> str | None:
    supernet = SuperNetwork.load(folder)
    for genome in (supernet.space.largest, supernet.space.smallest):
        subnet = supernet.subnetwork(supernet.space.configuration(genome))
        shape = subnet.model(torch.arange(2, 12)[None]).logits.shape
        assert shape[:2] == (1, 10)
    return None


@torch.inference_mode()
def _quantized(folder: Path) -> str | None:
    model, _, _ = load_base(str(folder))
    return _same(model(torch.arange(2, 12)[None]).logits.shape[:2], (1, 10), "logits")


_OPTIONS = ("--driver", "--strategy", "--train", "--validation", "--selection", "--test", "--lora-steps", "--steps",
            "--heal-steps", "--finalists", "--batch-size", "--learning-rate", "--evaluations", "--population",
            "--sensitivity", "--tolerance", "--rank", "--width", "--head", "--layers-per-gene", "--tokens", "--seed",
            "--device", "--adapter", "--model", "--task", "--folder", "--sparsity", "--bits", "--group-size",
            "--nothing", "--skip", "--refit", "--merge", "--confirmation")  # fmt: skip
_VALUES = ("", "0", "1", "-1", "2", "99999999999999999999", "1e9", "nan", "inf", "-inf", "0.5", "1.5", "x", "é", "auto",
           "nsga2", "cpu", "cuda:99", "meta", "2:4", "8:4", "/dev/null", "/nowhere/at/all", "hf:", "hf:nothing/there",
           "chain_sum", "family", "--", ".")  # fmt: skip


def _command(folder: Path) -> str | None:
    """A command line over a task that may be spoiled; the model is not there, so that what is possible ends soon."""
    source = random.Random(digest(folder))
    given = ["--folder", str(folder / "out"), "--task", str(folder / "task.jsonl"), "--model", str(folder / "none")]
    given += ["--train=10", "--validation=5", "--test=5"]
    for _ in range(source.randint(1, 3)):
        given += [source.choice(_OPTIONS), source.choice(_VALUES)]
    command = source.choice(["search", "search", "search", "shears", "sqft", ""])
    done = CliRunner().invoke(app, [command, *given])
    shutil.rmtree(folder / "out", ignore_errors=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    if done.exit_code not in (0, 1, 2) or len(done.output) < 10:
        return f"{command} {given} ended with {done.exit_code} and said {done.output!r}"
    return None


def main() -> None:
    """Run it."""
    parser = arguments(__doc__)
    parser.add_argument("--inputs", type=int, default=None, help="10000 by default, 200 with --quick")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=None, help="folder, not there yet, in which faulty inputs stay")
    given = parser.parse_args()
    begin, faults, inputs = time.monotonic(), Counter[tuple[str, str]](), Counter[str]()
    with tempfile.TemporaryDirectory() as temporary:
        here = given.keep or Path(temporary)
        here.mkdir(exist_ok=True)
        for name, kind, details in fuzz(given.inputs or (200 if given.quick else 10_000), given.seed, here):
            if kind == "inputs":
                inputs[name] = int(details)
                print(f"{name}: {details} inputs, {time.monotonic() - begin:.0f} s so far", flush=True)
            else:
                faults[name, kind] += 1
                print(f"  {name}, {kind} {details}", flush=True)
    totals = {kind: sum(n for (_, k), n in faults.items() if k == kind) for kind in ("traceback", "touched", "wrong")}
    print_json(
        {
            "inputs": inputs.total(),
            "tracebacks": totals["traceback"],
            "touched": totals["touched"],
            "wrong": totals["wrong"],
            "by": {
                name: {"inputs": n} | {k: c for (s, k), c in faults.items() if s == name} for name, n in inputs.items()
            },
            "seconds": round(time.monotonic() - begin, 1),
        }
    )


if __name__ == "__main__":
    main()
