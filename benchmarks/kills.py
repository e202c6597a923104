"""SIGKILLs at random moments over everything that takes long: is anything lost, and does anything differ?

Training, healing, search in one process and on workers, saving over an older save, and the whole job of the command
line run on a tiny model, in copies of a process that has imported everything. Each is started again after every kill
until it ends. `lost` counts what had been complete on disk and was gone or changed after a kill; `different` counts
rows, weights and files that are not those of an uninterrupted run at the end, also what should not be there; `orphans`
counts processes that outlived the one that had started them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks._common import arguments, load, print_json, texts, tiny_tokenizer
from benchmarks._kills import Contents, RunError, finish, killed, moment, orphans, progress, result, tree
from evaluators import MultipleChoiceAccuracy, ParameterCount, Racing, save_questions
from nas_engine import SuperNetwork, Teacher, heal, search, train
from nas_engine.cli import app
from nas_engine.compression.checkpoint import save_quantized
from nas_engine.compression.quantization import quantize_model
from nas_engine.data.made import chain_sum
from nas_engine.execution.pool import WorkerPool
from nas_engine.texts.calibration import calibration_batches
from search_spaces import attention_heads, lora_rank, mlp_width

TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
SPACE = lora_rank((4, 2), TARGETS) + mlp_width((1.0, 0.75, 0.5), multiple_of=8) + attention_heads((1.0, 0.5))
QUESTIONS = chain_sum(160, seed=0)
# Parts of the kills; a worker's start takes seconds of imports, which no copy of a process has behind it.
SHARES = {"training": 0.2, "healing": 0.2, "search": 0.2, "saving": 0.3, "job": 0.08, "pool": 0.02}

SLOW = ("job", "pool")  # left out of a quick run


@dataclass
class Tally:
    """What became of the runs of one kind."""

    kills: int = 0
    runs: int = 0
    lost: int = 0
    different: int = 0
    orphans: int = 0


def supernetwork(seed: int = 0) -> SuperNetwork:
    """An untrained one whose adapters matter, the same for the same seed."""
    model, tokenizer = load(True)
    supernet = SuperNetwork.from_pretrained(model, SPACE, tokenizer, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for linear in supernet.elastic_linears.values():
        assert linear.lora_B is not None
        linear.lora_B.data.normal_(std=0.1, generator=generator)
    return supernet


def training(folder: Path) -> None:
    """Sub-networks take turns; narrower widths are fitted before and after."""
    train(supernetwork(), QUESTIONS, steps=5, batch_size=4, strategy="cycle", refit=True,
          checkpoint=folder / "training", checkpoint_every=1, progress=False)  # fmt: skip


def healing(folder: Path) -> None:
    """A sub-network alone, fitted to a teacher first."""
    supernet = supernetwork()
    teacher = Teacher.of(supernet)
    supernet.order_by_importance(list(calibration_batches(QUESTIONS, supernet.tokenizer, 16)))
    subnet = supernet.subnetwork(supernet.space.configuration(supernet.space.smallest))
    heal(subnet, QUESTIONS, steps=5, teacher=teacher, fit_tokens=512, batch_size=4, checkpoint=folder / "healing",
         checkpoint_every=1, progress=False)  # fmt: skip


def searching(folder: Path, workers: int = 0) -> None:
    """Rows of a raced accuracy and a count, kept in `rows.json` at the end."""
    asked = MultipleChoiceAccuracy(QUESTIONS[:16], racing=Racing(first=8))
    executor = WorkerPool(workers) if workers else None
    found = search(supernetwork(), [asked, ParameterCount()], driver="nsga2", evaluations=16, population=8,
                   storage=folder, executor=executor, progress=False)  # fmt: skip
    found.to_json(folder / "rows.json")


def job(folder: Path, inputs: Path) -> None:
    """``nas-engine search``; what a clock would measure is given, as it is to a run that goes on."""
    for name in ("latency_table.json", "finalists.json"):
        if (inputs / name).exists() and not (folder / name).exists():
            shutil.copy(inputs / name, folder / f"{name}.copy")
            os.replace(folder / f"{name}.copy", folder / name)
    app([
        "search", f"--folder={folder}", f"--model={inputs / 'model'}", f"--task={inputs / 'questions.jsonl'}",
        "--validation=16", "--selection=16", "--test=16", "--lora-steps=3", "--steps=3", "--heal-steps=3",
        "--finalists=2", "--batch-size=4", "--evaluations=10", "--population=6", "--sensitivity=4", "--tokens=16",
        "--rank=4", "--rank=2", "--head=1.0", "--head=0.5", "--tolerance=0.5", "--no-skip",
    ], standalone_mode=False)  # fmt: skip


def prepare_job(folder: Path) -> None:
    """The job's model and questions, and what it times, of which later runs go on."""
    model, tokenizer = load(True)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    save_questions(QUESTIONS, folder / "questions.jsonl")
    (folder / "timed").mkdir()
    job(folder / "timed", folder)
    shutil.copy(folder / "timed" / "latency_table.json", folder)
    known = json.loads((folder / "timed" / "finalists.json").read_bytes())
    speedups = {key: values for key, values in known.items() if len(values) != 3}  # a measurement has three numbers
    (folder / "finalists.json").write_text(json.dumps(speedups), encoding="utf-8")


def saves() -> Mapping[str, Sequence[Callable[[Path], object]]]:
    """What is saved, in two versions each: one that is there, and one that is put over it."""
    nets = [supernetwork(seed) for seed in (0, 1)]
    subnets = [net.subnetwork(net.space.configuration(net.space.smallest)) for net in nets]
    quantized = []
    for seed in (0, 1):
        model, tokenizer = load(True, intermediate_size=64 + 32 * seed)
        batches = list(calibration_batches(QUESTIONS[seed::2], tokenizer, 8))
        quantized.append(partial(save_quantized, model, tokenizer, quantize_model(model, batches, group_size=32)))
    return {
        "supernet": [partial(net.save, include_base=True) for net in nets],
        "subnet": [subnet.save_pretrained for subnet in subnets],
        "adapter": [net.largest.save_adapter for net in nets],
        "base": [net.save_base for net in nets],
        "quantized": quantized,
    }


def kill_run(work: Callable[[Path], object], kills: int, source: random.Random, here: Path) -> Tally:
    """Runs of `work`, killed until it ends, until there were as many kills; every run against an uninterrupted one."""
    tally, log = Tally(), here / "log"
    expected_folder = here / "expected"
    expected_folder.mkdir(parents=True)
    duration = finish(partial(work, expected_folder), log)
    expected = result(expected_folder)
    while tally.kills < kills:
        folder = here / f"run-{tally.runs}"
        folder.mkdir()
        before: Contents = {}
        first = tally.kills
        while killed(partial(work, folder), moment(source, duration, tally.kills - first), log):
            tally.kills += 1
            tally.orphans += orphans()
            after = progress(folder)
            tally.lost += _missed(before, after)
            before = {**before, **after}
        found = result(folder)
        tally.lost += _missed(before, found)
        tally.different += _differences(expected, found, folder)
        tally.runs += 1
        shutil.rmtree(folder)
    return tally


def kill_saves(versions: Sequence[Callable[[Path], object]], kills: int, source: random.Random, here: Path) -> Tally:
    """Saves over an older save: whatever is there at any moment is the old one or the new one, whole."""
    tally, log = Tally(), here / "log"
    trees = []
    for number, save in enumerate(versions):
        (here / f"expected-{number}").mkdir(parents=True)
        duration = finish(partial(save, here / f"expected-{number}" / "saved"), log)
        trees.append(tree(here / f"expected-{number}" / "saved"))
    place = here / "place"
    place.mkdir()
    finish(partial(versions[0], place / "saved"), log)
    while tally.kills < kills:
        new = (tally.runs + 1) % 2
        first = tally.kills
        while killed(partial(versions[new], place / "saved"), moment(source, duration, tally.kills - first), log):
            tally.kills += 1
            tally.lost += tree(place / "saved") not in trees
        tally.different += tree(place / "saved") != trees[new]
        tally.different += sum(entry.name != "saved" for entry in place.iterdir())
        tally.runs += 1
    return tally


def _missed(before: Contents, after: Contents) -> int:
    gone = [name for name, text in before.items() if after.get(name) != text]
    for name in gone[:3]:
        print(f"  lost: {name}, {before[name][:80]} and now {after.get(name, 'nothing')[:80]}", flush=True)
    return len(gone)


def _differences(expected: Contents, found: Contents, folder: Path) -> int:
    names = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    for name in sorted(names)[:5]:
        print(f"  different in {folder.name}: {name}")
    return len(names)


def main() -> None:
    """Run it."""
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, default=None, help="in all; 1000 by default, 10 with --quick")
    parser.add_argument("--only", choices=[*SHARES], default=None, help="one kind of work alone")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    kills = given.kills or (10 if given.quick else 1000)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # which copies of a process cannot have
    torch.set_num_threads(1)
    tiny_tokenizer()
    texts(None, 1, 1)
    tallies: dict[str, Tally] = {}
    # A folder for temporary files of their own shows what they leave there.
    with tempfile.TemporaryDirectory() as temporary, _temporary_files_in(Path(temporary) / "temporary"):
        here = Path(temporary)
        begin = time.monotonic()
        for name, share in SHARES.items():
            if given.only not in (None, name) or (given.quick and name in SLOW):
                continue
            count = max(1, round(kills * (1.0 if given.only else share)))
            source, place = random.Random(f"{given.seed} {name}"), here / name
            try:
                if name == "saving":
                    kinds = saves()
                    parts = [kill_saves(v, -(-count // len(kinds)), source, place / k) for k, v in kinds.items()]
                    tallies[name] = Tally(*(sum(getattr(p, f) for p in parts) for f in Tally.__dataclass_fields__))
                else:
                    tallies[name] = kill_run(_work(name, place), count, source, place)
            except RunError as error:
                raise SystemExit(f"{name} failed after a kill:\n{error}") from error
            left = [entry for entry in (here / "temporary").iterdir() if entry.is_dir()]
            tallies[name].different += len(left)
            print(f"{name:10} {tallies[name]}, {time.monotonic() - begin:.0f} s so far", flush=True)
    totals = {field: sum(getattr(t, field) for t in tallies.values()) for field in Tally.__dataclass_fields__}
    print_json(
        {**totals, "seconds": round(time.monotonic() - begin, 1), "by": {n: vars(t) for n, t in tallies.items()}}
    )


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    folder.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before[1]
        if before[0] is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before[0]


def _work(name: str, place: Path) -> Callable[[Path], object]:
    if name != "job":
        return {"training": training, "healing": healing, "search": searching, "pool": partial(searching, workers=2)}[
            name
        ]
    inputs = place.parent / "inputs"
    inputs.mkdir()
    finish(partial(prepare_job, inputs), place.parent / "log")
    return partial(job, inputs=inputs)


if __name__ == "__main__":
    main()
