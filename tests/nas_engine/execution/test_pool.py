"""Worker processes: the rows of one process, whatever happens to a worker, and none left behind."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

from evaluators import MultipleChoiceAccuracy, ParameterCount, Racing, cost_model
from nas_engine.errors import SearchError
from nas_engine.execution.pool import WorkerPool
from nas_engine.loop import search
from tests.evaluators.multiple_choice.test_multiple_choice import questions
from tests.ordered import EVALUATORS, Cost, Ordered, Quality, space_of
from tests.supernets import random_adapters, supernetwork
from tests.tiny import tiny_llama


def run(**arguments) -> pd.DataFrame:
    defaults = {"driver": "nsga2", "evaluations": 24, "population": 8, "seed": 0, "progress": False}
    return search(Ordered(space_of()), **{"evaluators": EVALUATORS} | defaults | arguments).frame


@dataclass(frozen=True)
class Sizes(Cost):
    """Computed, but as if it were timed: nothing may run beside it. Leaves its times, and those of who runs beside."""

    folder: Path = Path()
    alone: bool = True

    def __call__(self, subnet):
        begin = time.monotonic()
        time.sleep(0.02)
        with (self.folder / f"{os.getpid()}").open("a") as file:
            file.write(json.dumps([self.alone, begin, time.monotonic()]) + "\n")
        return super().__call__(subnet)


@pytest.mark.slow
def test_supernetwork_gives_the_rows_of_one_process_and_timings_have_it_to_themselves(tmp_path) -> None:
    supernet = random_adapters(supernetwork(tiny_llama()), seed=1)

    @cost_model(unit="mJ")
    def energy(subnet) -> float:
        assert subnet.model is supernet.model, "the worker's own"
        return float(sum(operator.macs for operator in subnet.operators(batch=1, tokens=8)))

    class Timed(Sizes):
        def __call__(self, subnet):
            super().__call__(subnet)
            return ParameterCount()(subnet)

    def evaluators(folder: Path) -> list:
        folder.mkdir()
        return [
            MultipleChoiceAccuracy(questions(60), racing=Racing(confidence=0.9, first=20)),
            Timed("timed", folder=folder),
            Timed("beside", folder=folder, alone=False),
            energy,
        ]

    arguments = {"evaluations": 24, "population": 12, "progress": False}
    alone = search(supernet, evaluators(tmp_path / "one"), driver="nsga2", **arguments)
    together = search(supernet, evaluators(tmp_path / "two"), driver="nsga2", executor=WorkerPool(2), **arguments)
    pd.testing.assert_frame_equal(together.frame, alone.frame)
    assert (alone.frame["error"] == "").all()

    files = list((tmp_path / "two").iterdir())
    assert len(files) == 2  # both workers worked
    spans = [(file.name, *json.loads(line)) for file in files for line in file.read_text().splitlines()]
    timings = [span for span in spans if span[1]]
    assert len(timings) == len(together)
    for timing in timings:
        assert all(other is timing or other[3] <= timing[2] or timing[3] <= other[2] for other in spans)


@dataclass(frozen=True)
class Deadly(Quality):
    """Kills its process: at the smallest sub-network always, at the largest once."""

    folder: Path = Path()

    def __call__(self, subnet):
        widths = set(subnet.configuration.values())
        marker = self.folder / "died"
        if widths == {8} or (widths == {32} and not marker.exists()):
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(subnet)


class Raising(Quality):
    """Fails at the smallest sub-network in a decent way."""

    def __call__(self, subnet):
        if set(subnet.configuration.values()) == {8}:
            raise RuntimeError
        return super().__call__(subnet)


@pytest.mark.slow
def test_lost_worker_is_replaced_and_a_subnetwork_that_kills_them_all_fails_alone(tmp_path) -> None:
    found = run(evaluators=[Deadly(folder=tmp_path), Cost()], executor=WorkerPool(2))
    expected = run(evaluators=[Raising(), Cost()])
    pd.testing.assert_frame_equal(found.drop(columns="error"), expected.drop(columns="error"))
    (error,) = found["error"][expected["error"] != ""]
    assert error.startswith("accuracy: its worker was lost 3 times, the last time: it was killed (SIGKILL)")
    assert (found["error"] != "").sum() == 1


class Stuck(Quality):
    """At the smallest sub-network hangs in a way that no signal interrupts."""

    def __call__(self, subnet):
        if set(subnet.configuration.values()) == {8}:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            threading.Event().wait()
        return super().__call__(subnet)


@pytest.mark.slow
def test_evaluation_that_cannot_be_interrupted_is_ended_with_its_worker(monkeypatch) -> None:
    monkeypatch.setattr(import_module("nas_engine.execution.worker_executor"), "GRACE_SECONDS", 0.5)
    found = run(evaluators=[Stuck(), Cost()], executor=WorkerPool(1), time_limit_seconds=0.5, evaluations=8)
    failed = found[found["error"] != ""]
    assert len(found) == 8
    assert failed["error"].tolist() == [
        "accuracy: TimeLimitError: took longer than the 0.5 s allowed, and could only be ended with its worker"
    ]


SCRIPT = """
    import os, pathlib, signal, sys, time
    from evaluators import cost_model
    from nas_engine import WorkerPool
    from tests.ordered import Cost
    from tests.nas_engine.execution.test_pool import run

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs do without
    pids = pathlib.Path(sys.argv[1])

    @cost_model(direction="maximize", version="1")
    def accuracy(subnet):  # of the main module, as in a notebook, and without a guard
        (pids / str(os.getpid())).touch()
        while len(list(pids.iterdir())) < 2:  # a worker that starts early would have measured all before the other
            time.sleep(0.01)
        time.sleep(0.05)
        return sum(value ** 0.5 for value in subnet.configuration.values())

    run(evaluators=[accuracy, Cost()], storage=sys.argv[2], executor=WorkerPool(2))
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_search_leaves_no_worker_and_continues_as_the_uninterrupted_one(tmp_path, end) -> None:
    pids, run_folder = tmp_path / "pids", tmp_path / "run"
    pids.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(pids), str(run_folder)],
        env=os.environ | {"PYTHONPATH": os.getcwd(), "TMPDIR": str(tmp_path)},
        stderr=subprocess.DEVNULL,
    )
    while len(list(pids.iterdir())) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.15)
    process.send_signal(end)
    assert process.wait() != 0
    workers = [int(file.name) for file in pids.iterdir()]
    deadline = time.monotonic() + 30
    while any(map(running, workers)):
        assert time.monotonic() < deadline, "a worker outlives its search"
        time.sleep(0.01)

    paid: list[tuple] = []

    @cost_model(direction="maximize", version="1")
    def accuracy(subnet) -> float:
        paid.append(tuple(subnet.configuration.values()))
        return sum(value**0.5 for value in subnet.configuration.values())

    resumed = run(evaluators=[accuracy, Cost()], storage=run_folder)
    assert 0 < len(paid) < 24
    pd.testing.assert_frame_equal(resumed, run(evaluators=[accuracy, Cost()]))


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_worker_ends_with_a_killed_search_also_while_it_still_imports(tmp_path) -> None:
    (tmp_path / "numpy.py").write_text("import time\ntime.sleep(600)\n")  # an import that takes its time
    script = textwrap.dedent(f"""
        import os, signal, sys
        from nas_engine.execution.pool_process import PoolProcess
        sys.path.insert(0, {str(tmp_path)!r})
        print(PoolProcess(1).pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    worker, end = Path("/proc", done.stdout.strip()), time.monotonic() + 120
    while worker.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not worker.exists()


def test_evaluator_that_cannot_travel_is_named() -> None:
    class Holding(Quality):
        def __init__(self) -> None:
            object.__setattr__(self, "lock", threading.Lock())

    with pytest.raises(SearchError, match="accuracy cannot be sent to a worker: TypeError: cannot pickle"):
        run(evaluators=[Holding(), Cost()], executor=WorkerPool(1))


@pytest.mark.parametrize(("arguments", "message"), [((0,), "workers"), ((1, 0), "threads")])
def test_bad_pools_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WorkerPool(*arguments)
