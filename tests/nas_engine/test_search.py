"""The search loop: what it measures, what it survives, and that a kill changes nothing."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from evaluators import BusyError, Measurement
from nas_engine.drivers.registry import DRIVERS, NEEDS_SENSITIVITY
from nas_engine.errors import LedgerError, SearchError
from nas_engine.loop import search
from tests.ordered import EVALUATORS, Cost, Ordered, Quality, space_of
from tests.processes import started

# Without one that takes seconds an evaluation, and without the one that stands for another of them; those that need
# more than these evaluators have tests of their own.
QUICK = [driver for driver in DRIVERS if driver not in ("optuna-gp", "auto", *NEEDS_SENSITIVITY)]


def run(**arguments):
    defaults = {"driver": "nsga2", "evaluations": 40, "population": 8, "seed": 0, "progress": False}
    return search(Ordered(space_of()), **{"evaluators": EVALUATORS} | defaults | arguments)


@cache
def uninterrupted(driver: str) -> pd.DataFrame:
    return run(driver=driver).frame


class Counting(Cost):
    """Counts its calls in a list, and interrupts at one of them."""

    calls: list = []  # noqa: RUF012
    interrupt_at: int | None = None

    def __call__(self, subnet):
        type(self).calls.append(dict(subnet.configuration))
        if len(self.calls) == self.interrupt_at:
            raise KeyboardInterrupt
        return super().__call__(subnet)


@pytest.fixture
def counting():
    Counting.calls, Counting.interrupt_at = [], None
    return Counting


@pytest.mark.parametrize("driver", [*QUICK, "auto"])
def test_every_evaluation_is_of_another_subnetwork_within_the_budget(driver: str, counting) -> None:
    result = run(driver=driver, evaluators=[Quality(), counting()])
    assert len(result) == 40
    assert len(counting.calls) == 40
    assert len({tuple(c.values()) for c in counting.calls}) == 40


@pytest.mark.parametrize("driver", QUICK)
@pytest.mark.parametrize("at", [1, 2, 9, 25, 40])
def test_interrupted_search_continues_as_the_uninterrupted_one(tmp_path, driver: str, at: int, counting) -> None:
    counting.interrupt_at = at
    with pytest.raises(KeyboardInterrupt):
        run(driver=driver, evaluators=[Quality(), counting()], storage=tmp_path)
    counting.interrupt_at = None
    resumed = run(driver=driver, evaluators=[Quality(), counting()], storage=tmp_path)
    assert len(counting.calls) == 41  # the interrupted one twice, no other
    pd.testing.assert_frame_equal(resumed.frame, uninterrupted(driver))


class Slow(Cost):
    """Takes long enough for a kill to hit it."""

    def __call__(self, subnet):
        time.sleep(0.03)
        return super().__call__(subnet)


def search_slowly(driver: str, folder: Path) -> None:
    run(driver=driver, evaluators=[Quality(), Slow()], storage=folder)


@pytest.mark.parametrize("driver", ["nsga2", "surrogate"])
def test_killed_search_gives_the_same_rows(tmp_path, driver: str) -> None:
    journal, lines, kills = tmp_path / "ledger.log", 0, 0
    while True:
        process = started(search_slowly, driver, tmp_path)
        target = lines + 9
        while process.is_alive():
            if journal.exists() and (lines := journal.read_bytes().count(b"\n")) >= target:
                process.kill()
                kills += 1
                break
            time.sleep(0.001)
        process.join()
        if process.exitcode == 0:
            break
    assert kills >= 2
    resumed = run(driver=driver, storage=tmp_path)
    pd.testing.assert_frame_equal(resumed.frame, uninterrupted(driver))


def test_larger_budget_continues_a_finished_search(tmp_path, counting) -> None:
    run(evaluators=[Quality(), counting()], storage=tmp_path, evaluations=20)
    longer = run(evaluators=[Quality(), counting()], storage=tmp_path, evaluations=40)
    assert len(counting.calls) == 40
    pd.testing.assert_frame_equal(longer.frame, run().frame)


@pytest.mark.parametrize("driver", QUICK)
def test_small_space_is_searched_to_its_end(driver: str) -> None:
    supernet = Ordered(space_of(2, 3))
    result = search(supernet, EVALUATORS, driver=driver, evaluations=50, population=4, progress=False)
    assert len(result) == 9


class Failing(Quality):
    """Fails in some way where the first layer has a given width."""

    def __init__(self, how, width: int | None = 16) -> None:
        object.__setattr__(self, "how", how)
        object.__setattr__(self, "width", width)

    def __call__(self, subnet):
        if self.width is None or subnet.configuration["layers.0.width"] == self.width:
            return self.how()
        return super().__call__(subnet)


def raising():
    raise RuntimeError("no memory left")


RAISED = (raising, "accuracy: RuntimeError: no memory left")


@pytest.mark.parametrize(
    ("driver", "how", "message"),
    [
        *((driver, *RAISED) for driver in QUICK),
        ("nsga2", lambda: Measurement(float("nan")), "accuracy: ValueError: returned nan"),
        ("nsga2", lambda: Measurement(float("inf")), "accuracy: ValueError: returned inf"),
        ("nsga2", lambda: 0.5, "accuracy: TypeError: returned 0.5; an evaluator returns a Measurement"),
    ],
)
def test_failed_evaluation_is_marked_and_the_search_goes_on(driver: str, how, message: str) -> None:
    result = run(driver=driver, evaluators=[Failing(how), Cost()])
    failed = result.frame[result.frame["error"] != ""]
    assert len(result) == 40
    assert 0 < len(failed) < 40
    assert (failed["layers.0.width"] == 16).all()
    assert failed["error"].str.startswith(message).all()
    assert not failed["on_front"].any()


@pytest.mark.parametrize("in_thread", [False, True])
def test_evaluation_that_outlasts_its_limit_fails_alone(in_thread: bool) -> None:
    def waiting():
        end = time.monotonic() + 30
        while time.monotonic() < end:
            time.sleep(0.01)

    arguments = {"evaluators": [Failing(waiting), Cost()], "evaluations": 12, "time_limit_seconds": 0.2}
    if in_thread:
        with ThreadPoolExecutor(1) as pool:
            result = pool.submit(run, **arguments).result()
    else:
        result = run(**arguments)
    failed = result.frame[result.frame["error"] != ""]
    assert len(result) == 12
    assert 0 < len(failed) < 12
    assert (failed["error"] == "accuracy: TimeLimitError: took longer than the 0.2 s allowed").all()


def test_alarm_of_the_caller_outlasts_the_limits_of_evaluations() -> None:
    heard = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: heard.append(number))
    others, _ = signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        run(time_limit_seconds=60, evaluations=12, evaluators=[Quality(), Slow()])  # takes longer than the alarm
        while not heard:
            signal.sigtimedwait([], 0.01)
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, others)


def test_search_that_cannot_time_stops_instead_of_failing_subnetworks(tmp_path) -> None:
    def busy():
        raise BusyError("other evaluations still run on cpu")

    with pytest.raises(SearchError, match="accuracy cannot be measured: other evaluations still run"):
        run(evaluators=[Failing(busy), Cost()], storage=tmp_path)
    assert (run(evaluators=[Quality(), Cost()], storage=tmp_path).frame["error"] == "").all()


def test_search_in_which_everything_fails_says_so() -> None:
    with pytest.raises(SearchError, match="first 10 evaluations all failed.*no memory left"):
        run(evaluators=[Failing(raising, None), Cost()])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"evaluators": []}, "evaluators is empty"),
        ({"evaluators": [Cost(), Cost()]}, "two evaluators are named 'latency'"),
        ({"evaluators": [Cost("on_front")]}, "'on_front', which is another column's"),
        ({"evaluators": [Cost(direction="down")]}, "direction of latency is 'down'"),
        ({"evaluations": 0}, "evaluations is 0"),
        ({"time_limit_seconds": 0}, "time_limit_seconds is 0"),
        ({"driver": "genetic"}, "'genetic'; choose one of"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        run(**arguments)


def test_unwritable_run_folder_is_refused_before_anything_is_measured(tmp_path, counting) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="cannot be written"):
        run(evaluators=[counting()], storage=tmp_path / "file")
    assert not counting.calls


def test_the_bar_ends_with_the_size_of_the_front(capfd) -> None:
    result = run(evaluations=5, progress=True)  # the budget ends within the first generation
    assert f"front {len(result.front)}" in capfd.readouterr().err.splitlines()[-1]
