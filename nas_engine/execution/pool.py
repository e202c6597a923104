"""A search on several processes of this machine, each with the super-network in its own memory.

Not a pool of the standard library or of loky: those do not say which process works on what, cannot end one that does
not come back, and break as a whole where one dies.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import wait
from pathlib import Path
from typing import Generic

from evaluators.checks import require_at_least
from evaluators.whole_file import temporary_folder
from nas_engine.execution.executor import Executor
from nas_engine.execution.measuring import MeasurementPlan, S
from nas_engine.execution.pool_process import PoolProcess
from nas_engine.execution.worker import Arrived, Event, Shipment, save_supernet, shipment
from nas_engine.execution.worker_executor import Lost, WorkerExecutor, WorkerHandle

_HERE = "this machine"
_TICK_SECONDS = 1.0  # between looks for processes that are gone while something keeps their pipe open
_LEAVING_SECONDS = 2.0  # for all workers together, to end by themselves


@dataclass(frozen=True)
class WorkerPool:
    """Measure on worker processes of this machine: ``search(..., executor=WorkerPool(2))``.

    Each worker loads the super-network once. A worker that dies is replaced, and its sub-network measured again by
    another, three times at most; one whose evaluator does not come back within the time limit is ended.

    Args:
        workers: how many; each takes the memory of one super-network.
        threads: CPU threads of each. Evaluators that run alone have as many as the search's own process.

    Raises:
        ValueError: fewer than one worker or thread.
    """

    workers: int
    threads: int = 1

    def __post_init__(self) -> None:
        require_at_least(1, workers=self.workers, threads=self.threads)

    @contextmanager
    def open(self, plan: MeasurementPlan[S]) -> Iterator[Executor]:
        """As `Workplace` says; workers start with the first sub-network that is to be measured."""
        with temporary_folder("nas-engine-workers-") as folder:
            processes = _Processes(plan, self.threads, folder / "supernet")
            try:
                yield WorkerExecutor(plan, processes, self.workers)
            finally:
                processes.close()


class _Processes(Generic[S]):
    """The worker processes of one search."""

    def __init__(self, plan: MeasurementPlan[S], threads: int, folder: Path) -> None:
        self._plan, self._threads, self._folder = plan, threads, folder
        self._alive: list[PoolProcess] = []
        self._new: list[PoolProcess] = []

    @cached_property
    def _shipment(self) -> Shipment:
        save_supernet(self._plan.supernet, self._folder)
        return shipment(self._plan, self._threads)

    def hire(self) -> WorkerHandle:
        """As `WorkerBackend` says.

        Raises:
            SearchError: an evaluator cannot be sent to a process.
        """
        content = self._shipment
        process = PoolProcess(self._threads)
        self._alive.append(process)
        self._new.append(process)
        process.load(content, self._folder)
        return process

    def wait(self, seconds: float | None) -> Sequence[tuple[WorkerHandle, Event | Lost]]:
        """As `WorkerBackend` says."""
        if self._new:
            arrived, self._new = self._new, []
            return [(process, Arrived(_HERE)) for process in arrived]
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            left = _TICK_SECONDS if end is None else max(0.0, min(_TICK_SECONDS, end - time.monotonic()))
            speaking = wait([process.connection for process in self._alive], left)
            events: list[tuple[WorkerHandle, Event | Lost]] = [
                (process, process.received() if process.connection in speaking else process.lost())
                for process in self._alive
                if process.connection in speaking or process.gone
            ]
            if events or (end is not None and time.monotonic() >= end):
                return events

    def dismiss(self, handle: WorkerHandle) -> None:
        """As `WorkerBackend` says."""
        process = next(process for process in self._alive if process is handle)
        self._alive.remove(process)
        process.end()

    def close(self) -> None:
        """End all workers. Those that wait for work leave by themselves, and their libraries tidy up."""
        end = time.monotonic() + _LEAVING_SECONDS
        for process in self._alive:
            process.leave()
        try:
            while self._alive:
                self._alive[-1].end(max(0.0, end - time.monotonic()))
                self._alive.pop()
        finally:
            for process in self._alive:  # interrupted a second time
                process.end()
