"""Several processes on one ledger: they share what was measured, and never disagree on it."""

import os
import random
import time
from multiprocessing.connection import Connection

import numpy as np
import pandas as pd
import pytest

from evaluators import Measurement
from nas_engine.ledger.ledger import Record
from nas_engine.loop import search
from tests.nas_engine.ledger.test_ledger import RECORD, opened
from tests.ordered import EVALUATORS, Cost, Ordered, Quality, space_of
from tests.processes import CONTEXT, started

KINDS = ["journal", "sqlite"]


def storage_of(kind: str, folder) -> str:
    return str(folder) if kind == "journal" else f"sqlite:///{folder}/ledger.db"


def append_to(storages: list[str]) -> None:
    for storage in storages:
        opened(storage).append(RECORD)


def test_record_of_another_process_is_found_without_reopening(tmp_path) -> None:
    storages = [storage_of(kind, tmp_path) for kind in KINDS]
    ledgers = [opened(storage) for storage in storages]
    assert [ledger.get(np.zeros(8, dtype=int)) for ledger in ledgers] == [None, None]
    other = started(append_to, storages)
    other.join()
    assert other.exitcode == 0
    assert [ledger.get(np.zeros(8, dtype=int)) for ledger in ledgers] == [RECORD, RECORD]


@pytest.mark.parametrize("kind", KINDS)
def test_first_record_of_a_genome_counts_for_everybody(tmp_path, kind: str) -> None:
    """Two ledgers, both of which have seen that the genome is unknown before either writes."""
    storage = storage_of(kind, tmp_path)
    one, two = opened(storage), opened(storage)
    genome = np.ones(8, dtype=int)
    assert one.get(genome) is None
    assert two.get(genome) is None
    first = Record((1,) * 8, (Measurement(0.25), Measurement(1.0)))
    second = Record((1,) * 8, (Measurement(0.75), Measurement(2.0)))
    assert one.append(first) == first
    assert two.append(second) == first
    assert two.get(genome) == one.get(genome) == opened(storage).get(genome) == first
    assert len(opened(storage)) == 1


class Noisy(Quality):
    """Another value at every measurement, as latency has, after a while that differs too."""

    def __call__(self, subnet):
        time.sleep(random.random() * 0.01)
        return Measurement(super().__call__(subnet).value + random.gauss(0, 0.05), 0.05, 100)


def search_when_told(told: Connection, storages: list[str], files: list[str]) -> None:
    random.seed(os.getpid())
    told.send("ready")
    for storage, file in zip(storages, files, strict=True):
        told.recv()
        result = search(
            Ordered(space_of()),
            [Noisy(), Cost()],
            driver="nsga2",
            evaluations=40,
            population=8,
            seed=0,
            storage=storage,
            progress=False,
        )
        result.frame.to_json(file, double_precision=15)
        told.send("done")


def frames_of_two_processes(storages: list[str], folder) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Two processes run the same search at the same time, on one storage after the other: a pair of frames for each."""
    files = [[str(folder / f"{process}-{i}.json") for i in range(len(storages))] for process in range(2)]
    pipes = [CONTEXT.Pipe() for _ in files]
    for (_, theirs), written in zip(pipes, files, strict=True):
        started(search_when_told, theirs, storages, written)
        theirs.close()
    ours = [pipe[0] for pipe in pipes]
    assert [end.recv() for end in ours] == ["ready"] * 2
    for _ in storages:
        for end in ours:
            end.send("go")
        assert [end.recv() for end in ours] == ["done"] * 2
    return [(pd.read_json(one), pd.read_json(two)) for one, two in zip(*files, strict=True)]


def test_processes_with_the_same_seed_return_the_same_rows(tmp_path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for one, two in frames_of_two_processes([storage_of(kind, run) for kind in KINDS], tmp_path):
        assert len(one) == 40
        pd.testing.assert_frame_equal(one, two)


def test_search_takes_over_what_a_search_with_another_driver_measured(tmp_path) -> None:
    first = search(
        Ordered(space_of()),
        EVALUATORS,
        driver="random",
        evaluations=30,
        population=8,
        seed=0,
        storage=tmp_path,
        progress=False,
    )
    second = search(
        Ordered(space_of()),
        EVALUATORS,
        driver="nsga2",
        evaluations=30,
        population=8,
        seed=0,
        storage=tmp_path,
        progress=False,
    )
    genes = list(space_of().names)
    shared = pd.merge(first.frame[genes], second.frame[genes])
    assert len(shared) >= 8  # the first generation
    distinct = pd.concat([first.frame[genes], second.frame[genes]]).drop_duplicates()
    assert len(opened(tmp_path, model="ordered")) == len(distinct)
