"""Several processes on one ledger: they share what was measured, and never disagree on it."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest

from evaluators import Measurement
from nas_engine.search import Record
from nas_engine.search.loop import search
from tests.ordered import EVALUATORS, Ordered, space_of
from tests.test_ledger import RECORD, opened

KINDS = ["journal", "sqlite"]


def storage_of(kind: str, folder) -> str:
    return str(folder) if kind == "journal" else f"sqlite:///{folder}/ledger.db"


def start(script: str, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_record_of_another_process_is_found_without_reopening(tmp_path) -> None:
    storages = [storage_of(kind, tmp_path) for kind in KINDS]
    ledgers = [opened(storage) for storage in storages]
    assert [ledger.get(np.zeros(8, dtype=int)) for ledger in ledgers] == [None, None]
    other = start(
        """
        import sys
        from tests.test_ledger import RECORD, opened
        for storage in sys.argv[1:]:
            opened(storage).append(RECORD)
        """,
        *storages,
    )
    other.communicate()
    assert other.returncode == 0
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


SEARCHING = """
    import os, random, sys, time
    from evaluators import Measurement
    from nas_engine.search.loop import search
    from tests.ordered import Cost, Ordered, Quality, space_of

    class Noisy(Quality):
        '''Another value at every measurement, as latency has, after a while that differs too.'''

        def __call__(self, subnet):
            time.sleep(random.random() * 0.01)
            return Measurement(super().__call__(subnet).value + random.gauss(0, 0.05), 0.05, 100)

    random.seed(os.getpid())
    print("ready", flush=True)
    for storage, file in zip(sys.argv[1::2], sys.argv[2::2]):
        input()
        result = search(Ordered(space_of()), [Noisy(), Cost()], "nsga2", 40, 8, 0, storage=storage, progress=False)
        result.frame.to_json(file, double_precision=15)
        print("done", flush=True)
"""


def frames_of_two_processes(storages: list[str], folder) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Two processes run the same search at the same time, on one storage after the other: a pair of frames for each."""
    files = [[str(folder / f"{process}-{i}.json") for i in range(len(storages))] for process in range(2)]
    processes = [start(SEARCHING, *(a for pair in zip(storages, f, strict=True) for a in pair)) for f in files]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for _ in storages:
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.stdout.readline() for process in processes] == ["done\n"] * 2
    for process in processes:
        process.communicate()
    return [(pd.read_json(one), pd.read_json(two)) for one, two in zip(*files, strict=True)]


def test_processes_with_the_same_seed_return_the_same_rows(tmp_path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for one, two in frames_of_two_processes([storage_of(kind, run) for kind in KINDS], tmp_path):
        assert len(one) == 40
        pd.testing.assert_frame_equal(one, two)


def test_search_takes_over_what_a_search_with_another_driver_measured(tmp_path) -> None:
    first = search(Ordered(space_of()), EVALUATORS, "random", 30, 8, seed=0, storage=tmp_path, progress=False)
    second = search(Ordered(space_of()), EVALUATORS, "nsga2", 30, 8, seed=0, storage=tmp_path, progress=False)
    genes = list(space_of().names)
    shared = pd.merge(first.frame[genes], second.frame[genes])
    assert len(shared) >= 8  # the first generation
    distinct = pd.concat([first.frame[genes], second.frame[genes]]).drop_duplicates()
    assert len(opened(tmp_path, model="ordered")) == len(distinct)
