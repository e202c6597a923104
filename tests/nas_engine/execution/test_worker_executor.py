"""Workers under one executor: whoever is slow, dies or hangs, every sub-network gets the record it would get alone."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators import Measurement
from nas_engine.errors import SearchError
from nas_engine.execution.executor import InProcess
from nas_engine.execution.measuring import Began, MeasurementPlan
from nas_engine.execution.work_queue import WorkQueue
from nas_engine.execution.worker import Arrived, Ready, Refused, Worker, shipment
from nas_engine.execution.worker_executor import Lost, WorkerExecutor
from nas_engine.loop import search
from tests.ordered import EVALUATORS, Configured, Cost, Ordered, Quality, space_of


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 30))
def test_shares_hand_out_every_position_once_and_each_share_in_order(seed: int, count: int) -> None:
    rng, queue, given_out = random.Random(seed), WorkQueue(), []
    positions = rng.sample(range(40), count)
    current: dict[int, tuple[int, ...]] = {}
    while positions or len(queue):
        if positions and rng.random() < 0.5:
            queue.offer(positions.pop())
        worker = rng.randrange(4)
        if rng.random() < 0.1:
            queue.leave(worker)
            current.pop(worker, None)
        if (taken := queue.take(worker)) is None:
            continue
        position, chunk = taken
        current[worker] = chunk or current[worker]
        assert position in current[worker]
        current[worker] = tuple(later for later in current[worker] if later > position)
        given_out.append(position)
    assert len(given_out) == len(set(given_out)) == count
    assert queue.take(0) is None


def test_shares_of_several_workers_are_neighbours() -> None:
    queue = WorkQueue()
    for position in range(16):
        queue.offer(position)
    assert queue.take("a") == (0, tuple(range(16)))
    assert queue.take("b") == (8, tuple(range(8, 16)))
    assert queue.take("c") == (4, (4, 5, 6, 7))
    assert queue.take("a") == (1, ())
    assert queue.take("b") == (9, ())


class Inline:
    """Workers in this process that advance by one event at a time, in random order, and now and then are lost."""

    def __init__(self, plan: MeasurementPlan, rng: random.Random, losses: int, places: int) -> None:
        self.plan, self.rng, self.losses, self.places = plan, rng, losses, places
        self.handles: list[InlineHandle] = []

    def hire(self) -> "InlineHandle":
        self.handles.append(InlineHandle(self))
        return self.handles[-1]

    def wait(self, seconds):
        speaking = [handle for handle in self.handles if handle.events is not None]
        assert speaking, "the executor waits for workers that have nothing to do"
        handle = self.rng.choice(speaking)
        if self.losses and self.rng.random() < 0.1:
            self.losses -= 1
            handle.events = None
            return [(handle, Lost("lost at random"))]
        event = next(handle.events, None)
        if event is None:
            handle.events = None
            return []
        if event == Began("alone"):
            beside = [other for other in self.handles if other.place == handle.place and other is not handle]
            assert not any(other.measures for other in beside), "something runs beside a timing"
        handle.measures = isinstance(event, Began)
        return [(handle, event)]

    def dismiss(self, handle):
        self.handles.remove(handle)


class InlineHandle:
    def __init__(self, backend: Inline) -> None:
        self.place = f"node {backend.rng.randrange(backend.places)}"
        self.worker, self.measures = None, False
        self.events = self._start(backend)

    def _start(self, backend: Inline) -> Iterator:
        yield Arrived(self.place)
        self.worker = Worker(shipment(backend.plan, threads=1), Path())
        yield Ready()

    def send(self, task) -> None:
        self.measures = True
        self.events = self.worker.measure(task)


@dataclass(frozen=True)
class InlineWorkers:
    """A workplace of such workers."""

    workers: int
    seed: int = 0
    losses: int = 0
    places: int = 1

    @contextmanager
    def open(self, plan):
        yield WorkerExecutor(plan, Inline(plan, random.Random(self.seed), self.losses, self.places), self.workers)


class Alone(Cost):
    """Nothing may run beside it."""

    alone = True


class Fussy(Quality):
    """Fails on some sub-networks."""

    def __call__(self, subnet):
        if subnet.configuration["layers.0.width"] == 16:
            raise RuntimeError("no memory left")
        return super().__call__(subnet)


def rows(**arguments) -> pd.DataFrame:
    defaults = {"driver": "nsga2", "evaluations": 40, "population": 8, "seed": 0, "progress": False}
    evaluators = [Fussy(), Alone("alone"), Cost()]
    return search(Ordered(space_of()), **{"evaluators": evaluators} | defaults | arguments).frame


@cache
def rows_of_one_process() -> pd.DataFrame:
    return rows()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(0, 10_000), st.integers(0, 2), st.integers(1, 3))
def test_rows_do_not_depend_on_workers_their_order_or_their_loss(workers, seed, losses, places) -> None:
    pd.testing.assert_frame_equal(rows(executor=InlineWorkers(workers, seed, losses, places)), rows_of_one_process())


@dataclass(frozen=True)
class Layered(Configured):
    @property
    def layer_signatures(self) -> tuple[tuple[int], ...]:
        return tuple((value,) for value in self.configuration.values())


class OfLayers(Ordered):
    def subnetwork(self, configuration) -> Layered:
        return Layered(configuration)


class Racer(Quality):
    """Its score tells its rival's."""

    races = True

    def session(self, subnets, before=None) -> "RacerSession":
        return RacerSession(subnets)


@dataclass(frozen=True)
class RacerSession:
    subnets: list[Layered]

    def measure(self, position: int, rival: Measurement | None = None) -> Measurement:
        own = Quality()(self.subnets[position])
        return replace(own, value=own.value + (0.001 * rival.value if rival else 0.0))


class Narrowness(Cost):
    """Only bounds: small where the last layer is wide."""

    def __call__(self, subnet):
        return Measurement(float(-subnet.configuration["layers.7.width"]))


@pytest.mark.parametrize("objectives", [None, ("accuracy", "latency")])
def test_who_races_has_the_rivals_of_one_process(objectives) -> None:
    arguments = {"driver": "random", "evaluations": 60, "population": 10, "progress": False, "objectives": objectives}
    evaluators = [Racer(), Narrowness("narrowness"), Cost()]
    found, expected, unraced = (
        search(OfLayers(space_of()), [racer, *evaluators[1:]], **arguments, executor=executor).frame
        for racer, executor in [(Racer(), InlineWorkers(3)), (Racer(), None), (Quality(), None)]
    )
    pd.testing.assert_frame_equal(found, expected)
    assert not found["accuracy"].equals(unraced["accuracy"])


def test_evaluators_that_all_run_alone_are_measured_one_after_another() -> None:
    evaluators = [Alone("alone"), Alone("other")]
    found = rows(evaluators=evaluators, executor=InlineWorkers(3))
    pd.testing.assert_frame_equal(found, rows(evaluators=evaluators))


@pytest.mark.parametrize("driver", ["nsga2", "random"])
def test_interrupted_parallel_search_continues_as_the_uninterrupted_one(tmp_path, driver: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        rows(driver=driver, evaluators=[Interrupting(), Cost()], executor=InlineWorkers(3), storage=tmp_path)
    resumed = rows(driver=driver, evaluators=EVALUATORS, executor=InlineWorkers(2, seed=1), storage=tmp_path)
    pd.testing.assert_frame_equal(resumed, rows(driver=driver, evaluators=EVALUATORS))


class Interrupting(Quality):
    calls: list = []  # noqa: RUF012

    def __call__(self, subnet):
        self.calls.append(subnet)
        if len(self.calls) % 13 == 0:
            raise KeyboardInterrupt
        return super().__call__(subnet)


@pytest.mark.parametrize("driver", ["optuna-nsga2", "optuna-tpe"])
def test_asynchronous_driver_fills_all_workers_and_is_replayed(tmp_path, driver: str) -> None:
    arguments = {"driver": driver, "evaluators": EVALUATORS, "evaluations": 20}
    whole = rows(**arguments, executor=InlineWorkers(3))
    assert len(whole.drop_duplicates(space_of().names)) == 20
    for seed, evaluations in enumerate((5, 13)):
        rows(**arguments | {"evaluations": evaluations}, executor=InlineWorkers(3, seed), storage=tmp_path)
    pd.testing.assert_frame_equal(rows(**arguments, executor=InlineWorkers(3, seed=9), storage=tmp_path), whole)


class Dying(InlineHandle):
    def _start(self, backend: Inline) -> Iterator:
        yield Arrived(self.place)
        yield Lost("it ended by SIGSEGV")


class Refusing(InlineHandle):
    def _start(self, backend: Inline) -> Iterator:
        yield Arrived(self.place)
        yield Refused("a worker could not start: no room")


class Elsewhere(InlineHandle):
    def _start(self, backend: Inline) -> Iterator:
        yield Arrived(self.place)
        yield Ready(cannot_time="alone would measure on another machine")


@pytest.mark.parametrize(
    ("handle", "message"),
    [
        (Dying, "3 workers in a row ended before they had loaded.*SIGSEGV"),
        (Refusing, "could not start: no room"),
        (Elsewhere, "no worker can take the timings: alone would measure on another machine"),
    ],
)
def test_workers_that_cannot_work_end_the_search(monkeypatch, handle, message: str) -> None:
    monkeypatch.setattr(Inline, "hire", lambda backend: backend.handles.append(handle(backend)) or backend.handles[-1])
    with pytest.raises(SearchError, match=message):
        rows(executor=InlineWorkers(2))


class Picky(Quality):
    """Works on few sub-networks, or on none."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        object.__setattr__(self, "widths", widths)

    def __call__(self, subnet):
        if subnet.configuration["layers.0.width"] not in self.widths:
            raise RuntimeError("no memory left")
        return super().__call__(subnet)


class FailuresFirst:
    """Gives the records of failures first, as workers do where failing is quick."""

    parallel = 1

    @contextmanager
    def open(self, plan):
        self.here = InProcess(plan)
        yield self

    def evaluate(self, genomes, front):
        yield from sorted(self.here.evaluate(genomes, front), key=lambda record: not record.error)


def test_search_gives_up_by_what_it_asked_for_first_and_not_by_what_arrived_first() -> None:
    arguments = {"executor": FailuresFirst(), "population": 24}
    found = rows(evaluators=[Picky((32,)), Cost()], **arguments)  # the largest, which is asked for first, is among them
    assert (found["error"] != "").sum() > 10
    with pytest.raises(SearchError, match="first 10 evaluations all failed"):
        rows(evaluators=[Picky(()), Cost()], **arguments)
