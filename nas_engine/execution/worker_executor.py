"""An executor over workers that may die: who measures what, and what happens when one is lost. Knows no transport."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol

from evaluators import Measurement
from nas_engine.errors import SearchError
from nas_engine.execution.measuring import Began, MeasurementPlan, Outcome, S
from nas_engine.execution.work_queue import WorkQueue
from nas_engine.execution.worker import Arrived, Chunk, Event, Ready, Refused, Task
from nas_engine.ledger.ledger import Record
from search_spaces import Genome

GRACE_SECONDS = 5.0  # beyond the time limit, for an evaluator that reacts to being interrupted
_ATTEMPTS = 3  # workers that a sub-network may cost
_FAILED_STARTS = 3  # in a row


@dataclass(frozen=True)
class Lost:
    """A worker ended."""

    reason: str


class WorkerHandle(Protocol):
    """A worker, as its executor holds it."""

    def send(self, task: Task) -> None:
        """Let it begin with `task`. One that has ended meanwhile is reported by `WorkerBackend.wait`."""
        ...


class WorkerBackend(Protocol):
    """Where workers come from."""

    def hire(self) -> WorkerHandle:
        """Start a worker; its events say when it is there."""
        ...

    def wait(self, seconds: float | None) -> Sequence[tuple[WorkerHandle, Event | Lost]]:
        """What happened at workers; waits for something to happen, `seconds` at most, and may then be empty."""
        ...

    def dismiss(self, handle: WorkerHandle) -> None:
        """End a worker at once, whatever it does."""
        ...


@dataclass
class _Worker:
    """What the executor knows of a worker."""

    handle: WorkerHandle
    place: str | None = None  # None until it runs
    ready: bool = False
    cannot_time: str = ""
    position: int | None = None  # what it measures
    timing: bool = False  # by the evaluators that run alone
    chunk: tuple[int, ...] = ()
    doing: str = ""  # the evaluator
    deadline: float | None = None  # on the monotonic clock

    @property
    def idle(self) -> bool:
        return self.ready and self.position is None


@dataclass
class _Batch:
    """Genomes under measurement, in depth-first order."""

    genomes: Sequence[Genome]
    front: tuple[Record, ...]
    timings: WorkQueue = field(default_factory=WorkQueue)  # positions that wait for the evaluators that run alone
    rest: WorkQueue = field(default_factory=WorkQueue)  # those that wait for the others
    known: dict[int, Mapping[str, Measurement]] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)  # workers lost
    open: set[int] = field(default_factory=set)  # positions without a record


class WorkerExecutor(Generic[S]):
    """Hands a batch to workers, one sub-network at a time.

    Evaluators that run alone go first, one sub-network after another on one worker, while no other worker at its place
    does anything. A sub-network whose worker is lost goes to another, three times at most.

    Args:
        plan: what is measured.
        backend: gives the workers. They are started when there is something to measure, no more than there is.
        workers: how many.
    """

    def __init__(self, plan: MeasurementPlan[S], backend: WorkerBackend, workers: int) -> None:
        self._plan, self._backend, self.parallel = plan, backend, workers
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def evaluate(self, genomes: Sequence[Genome], front: Sequence[Record]) -> Iterator[Record]:
        """As `Executor` says."""
        batch = self._begun(genomes, front)
        try:
            while batch.open:
                while len(self._workers) < min(self.parallel, len(batch.open)):
                    self._workers.append(_Worker(self._backend.hire()))
                self._assign(batch)
                for worker, event in self._events():
                    yield from self._heard(batch, worker, event)
                yield from self._overdue(batch)
        finally:
            for worker in [w for w in self._workers if w.position is not None]:
                self._dismiss(worker)  # only where the search stops within the batch

    def _begun(self, genomes: Sequence[Genome], front: Sequence[Record]) -> _Batch:
        batch = _Batch(self._plan.depth_first(genomes), tuple(front))
        waiting = batch.timings if self._plan.alone else batch.rest
        for position in range(len(genomes)):
            waiting.offer(position)
            batch.known[position] = {}
            batch.open.add(position)
        return batch

    def _assign(self, batch: _Batch) -> None:
        """Give every worker something to do that may have it now."""
        quiet = self._quiet_place(batch)
        for worker in self._workers:
            if worker.idle and worker.place != quiet:
                self._send(batch, worker, timing=False)

    def _quiet_place(self, batch: _Batch) -> str | None:
        """Where nothing may begin because timings are taken there; the next one is begun if it can be."""
        for worker in self._workers:
            if worker.timing:
                return worker.place
        if not len(batch.timings):
            return None
        timer = self._timer()
        if timer is None:
            return None
        if all(w.idle for w in self._workers if w.place == timer.place):
            self._send(batch, timer, timing=True)
        return timer.place

    def _timer(self) -> _Worker | None:
        """The worker that takes all timings, as long as it lives."""
        ready = [w for w in self._workers if w.ready]
        able = [w for w in ready if not w.cannot_time]
        if ready and not able and len(ready) == len(self._workers):
            raise SearchError(
                f"no worker can take the timings: {ready[0].cannot_time}. Run a worker on the kind of machine that "
                "the search runs on, or predict latency without a clock, by a LatencyTable."
            )
        return able[0] if able else None

    def _send(self, batch: _Batch, worker: _Worker, timing: bool) -> None:
        queue, others = (batch.timings, batch.rest) if timing else (batch.rest, batch.timings)
        others.leave(id(worker))  # a worker holds one chunk at a time
        taken = queue.take(id(worker))
        if taken is None:
            return
        position, chunk = taken
        if chunk:
            worker.chunk = chunk
        genomes = tuple(tuple(batch.genomes[i].tolist()) for i in chunk)
        begun = Chunk(genomes, batch.front, alone=timing) if chunk else None
        worker.position, worker.timing, worker.doing = position, timing, ""
        worker.handle.send(Task(worker.chunk.index(position), batch.known[position], begun))

    def _events(self) -> list[tuple[_Worker, Event | Lost]]:
        deadlines = [w.deadline for w in self._workers if w.deadline is not None]
        seconds = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        by_handle = {id(w.handle): w for w in self._workers}
        events = self._backend.wait(seconds)
        return [(by_handle[id(handle)], event) for handle, event in events]

    def _heard(self, batch: _Batch, worker: _Worker, event: Event | Lost) -> Iterator[Record]:
        if isinstance(event, Arrived):
            worker.place = event.place
        elif isinstance(event, Ready):
            worker.ready, worker.cannot_time, self._failed_starts = True, event.cannot_time, 0
        elif isinstance(event, Began):
            worker.doing = event.evaluator
            if self._plan.seconds is not None:
                worker.deadline = time.monotonic() + self._plan.seconds + GRACE_SECONDS
        elif isinstance(event, Outcome):
            yield from self._measured(batch, worker, event)
        elif isinstance(event, Refused):
            raise SearchError(event.message)
        else:
            yield from self._lost(batch, worker, event)

    def _measured(self, batch: _Batch, worker: _Worker, outcome: Outcome) -> Iterator[Record]:
        position, worker.position, worker.deadline = worker.position, None, None
        timing, worker.timing = worker.timing, False
        assert position is not None, "an outcome comes after a task"
        batch.known[position] = outcome.measured
        if timing and not outcome.error and self._plan.shared:
            batch.rest.offer(position)
        else:
            yield self._closed(batch, position, outcome)

    def _lost(self, batch: _Batch, worker: _Worker, lost: Lost) -> Iterator[Record]:
        position, timing = worker.position, worker.timing
        self._leave(batch, worker)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= _FAILED_STARTS:
                raise SearchError(
                    f"{_FAILED_STARTS} workers in a row ended before they had loaded the super-network, the last one: "
                    f"{lost.reason}. Each holds it once; use fewer workers if memory is short."
                )
        if position is None:
            return
        attempts = batch.attempts[position] = batch.attempts.get(position, 0) + 1
        if attempts < _ATTEMPTS:
            (batch.timings if timing else batch.rest).offer(position)
            return
        error = f"its worker was lost {attempts} times, the last time: {lost.reason}"
        yield self._closed(batch, position, Outcome(error=f"{worker.doing}: {error}" if worker.doing else error))

    def _overdue(self, batch: _Batch) -> Iterator[Record]:
        """End workers whose evaluator does not come back; the sub-network has failed."""
        now = time.monotonic()
        for worker in [w for w in self._workers if w.deadline is not None and w.deadline <= now]:
            position = worker.position
            assert position is not None, "only who measures has a deadline"
            self._leave(batch, worker)
            error = f"took longer than the {self._plan.seconds:g} s allowed, and could only be ended with its worker"
            yield self._closed(batch, position, Outcome(error=f"{worker.doing}: TimeLimitError: {error}"))

    def _closed(self, batch: _Batch, position: int, outcome: Outcome) -> Record:
        batch.open.remove(position)
        return self._plan.record(batch.genomes[position], outcome)

    def _leave(self, batch: _Batch, worker: _Worker) -> None:
        batch.timings.leave(id(worker))
        batch.rest.leave(id(worker))
        self._dismiss(worker)

    def _dismiss(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        self._backend.dismiss(worker.handle)
