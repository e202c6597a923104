"""A search on a Ray cluster: each worker is an actor that holds the super-network, on whichever node has room."""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic

import numpy as np

from evaluators.checks import require_at_least
from evaluators.whole_file import temporary_folder
from nas_engine.errors import NasEngineWarning, SearchError
from nas_engine.execution.executor import Executor
from nas_engine.execution.measuring import MeasurementPlan, S
from nas_engine.execution.worker import Arrived, Event, Ready, Refused, Shipment, Task, Worker, save_supernet, shipment
from nas_engine.execution.worker_executor import Lost, WorkerExecutor, WorkerHandle

_CONNECT_SECONDS = 10.0
Files = Mapping[str, np.ndarray[Any, np.dtype[np.uint8]]]  # their bytes, by path in the folder


@dataclass(frozen=True)
class RayCluster:
    """Measure on a Ray cluster: ``search(..., executor=RayCluster(8, gpus=0.5, address="auto"))``.

    Each worker loads the super-network once. A worker that is lost, with its node or alone, is replaced as soon as the
    cluster has room, and its sub-network measured again, three times at most. Evaluators that run alone are measured by
    one worker while no other works on its node, and only where their settings are those of this machine.

    A cluster that this process is connected to already is used, and stays; else one is joined or started, and left or
    ended with the search.

    Args:
        workers: how many.
        cpus: of each; whole ones are its threads.
        gpus: of each; 0.5 lets two share one.
        address: of a running cluster, such as ``auto`` or ``10.0.0.1:6379``; None starts one on this machine.

    Raises:
        ValueError: fewer than one worker, no CPU, or less than no GPU.
    """

    workers: int
    cpus: float = 1
    gpus: float = 0.0
    address: str | None = None

    def __post_init__(self) -> None:
        require_at_least(1, workers=self.workers)
        if not self.cpus > 0 or not self.gpus >= 0:
            raise ValueError(f"cpus is {self.cpus} and gpus is {self.gpus}; give more than no CPU, and 0 GPUs or more.")

    @contextmanager
    def open(self, plan: MeasurementPlan[S]) -> Iterator[Executor]:
        """As `Workplace` says; workers start with the first sub-network that is to be measured.

        Raises:
            SearchError: ray is not installed, the cluster cannot be reached, or workers without a GPU would have to
                load a super-network that is on one.
        """
        if plan.supernet.device.startswith("cuda") and not self.gpus:
            raise SearchError("the super-network is on a GPU, and workers are given none; set gpus=, such as 0.5 or 1.")
        with self._connection():
            actors = _Actors(plan, self)
            try:
                yield WorkerExecutor(plan, actors, self.workers)
            finally:
                actors.close()

    @contextmanager
    def _connection(self) -> Iterator[None]:
        ray = _ray()
        if ray.is_initialized():
            self._warn_of_missing_room()
            yield
            return
        if self.address is not None:
            _require_reachable(self.address)
        # A cluster of this machine alone has room for the workers that were asked for.
        local = {"num_cpus": math.ceil(self.workers * self.cpus), "include_dashboard": False}
        settings = local if self.address is None else {}
        try:
            ray.init(self.address or "local", log_to_driver=False, logging_level=logging.WARNING, **settings)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise SearchError(f"no Ray cluster at {self.address or 'this machine'}: {error}") from error
        try:
            self._warn_of_missing_room()
            yield
        finally:
            ray.shutdown()

    def _warn_of_missing_room(self) -> None:
        there = _ray().cluster_resources()
        rooms = {"CPU": self.cpus, "GPU": self.gpus}
        places = min(int(there.get(name, 0) / each) for name, each in rooms.items() if each)
        if places < self.workers:
            warnings.warn(
                f"the Ray cluster has room for {places} of {self.workers} workers with {self.cpus:g} CPUs and "
                f"{self.gpus:g} GPUs each; the others wait for more.",
                NasEngineWarning,
                stacklevel=2,
            )


class _Actor:
    """What runs on the cluster."""

    def load(
        self, shipment: Shipment, files: Files, settings: Sequence[Mapping[str, Any]], home: str
    ) -> Iterator[Event]:
        """Hold the super-network.

        Args:
            shipment: from the search.
            files: of the super-network.
            settings: of the evaluators that run alone, where the search runs.
            home: the node where that is.
        """
        node = _ray().get_runtime_context().get_node_id()
        yield Arrived(node)
        try:
            with temporary_folder("nas-engine-workers-") as folder:
                for name, content in files.items():
                    path = folder / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    content.tofile(path)
                self._worker: Worker[Any] = Worker(shipment, folder)
            cannot_time = "" if node == home else self._worker.cannot_time(settings)
        except Exception as error:  # whatever loading raises, the search has to say it
            yield Refused(f"a worker could not start: {type(error).__name__}: {error}")
        else:
            yield Ready(cannot_time)

    def measure(self, task: Task) -> Iterator[Event]:
        """As `Worker` says."""
        yield from self._worker.measure(task)


class _RayHandle:
    """An actor, and what it says of what it was told last."""

    def __init__(self, actor: Any, events: Any) -> None:
        self.actor, self.events = actor, events  # events: a generator of object references, or None

    def send(self, task: Task) -> None:
        """As `WorkerHandle` says."""
        self.events = self.actor.measure.remote(task)


class _Actors(Generic[S]):
    """The actors of one search."""

    def __init__(self, plan: MeasurementPlan[S], cluster: RayCluster) -> None:
        self._plan, self._cluster = plan, cluster
        self._alive: list[_RayHandle] = []

    @cached_property
    def _arguments(self) -> tuple[Any, ...]:
        """What `_Actor.load` takes; the large ones are kept once in Ray's object store."""
        ray, device = _ray(), self._plan.supernet.device.partition(":")[0]
        content = shipment(self._plan, max(1, int(self._cluster.cpus)))
        with temporary_folder("nas-engine-workers-") as temporary:
            folder = temporary / "supernet"
            save_supernet(self._plan.supernet, folder)
            paths = [path for path in folder.rglob("*") if path.is_file()]
            files = {str(path.relative_to(folder)): np.fromfile(path, dtype=np.uint8) for path in paths}
        settings = [dict(evaluator.settings()) for evaluator in self._plan.alone]
        home = ray.get_runtime_context().get_node_id()
        return ray.put(replace(content, device=device)), ray.put(files), settings, home

    def hire(self) -> WorkerHandle:
        """As `WorkerBackend` says.

        Raises:
            SearchError: an evaluator cannot be sent to an actor.
        """
        arguments = self._arguments
        actor = (
            _ray()
            .remote(_Actor)
            .options(
                num_cpus=self._cluster.cpus,
                num_gpus=self._cluster.gpus,
                runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(_source_folders())}},
            )
            .remote()
        )
        handle = _RayHandle(actor, None)
        self._alive.append(handle)
        handle.events = actor.load.remote(*arguments)
        return handle

    def wait(self, seconds: float | None) -> Sequence[tuple[WorkerHandle, Event | Lost]]:
        """As `WorkerBackend` says."""
        ray = _ray()
        speaking = [handle for handle in self._alive if handle.events is not None]
        ready, _ = ray.wait([handle.events for handle in speaking], timeout=seconds)
        events: list[tuple[WorkerHandle, Event | Lost]] = []
        for handle in speaking:
            if not any(handle.events is one for one in ready):
                continue
            try:
                events.append((handle, ray.get(next(handle.events))))
            except StopIteration:
                handle.events = None
            except ray.exceptions.RayActorError as error:
                handle.events = None
                events.append((handle, Lost(" ".join(str(error).split()))))
        return events

    def dismiss(self, handle: WorkerHandle) -> None:
        """As `WorkerBackend` says."""
        lost = next(one for one in self._alive if one is handle)
        self._alive.remove(lost)
        _ray().kill(lost.actor)

    def close(self) -> None:
        """End all actors."""
        for handle in list(self._alive):
            self.dismiss(handle)


def _require_reachable(address: str) -> None:
    """Ray itself tries for minutes, and then ends the process instead of raising."""
    if address.startswith("ray://"):
        raise SearchError(
            f"address is {address!r}, for a client outside of the cluster; run the search on one of its machines, with "
            "address='auto'."
        )
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return  # such as auto, which Ray looks up in its files
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise SearchError(f"no Ray cluster at {address}: {error}. Start one with: ray start --head.") from error


def _source_folders() -> list[str]:
    """Where this process imports from besides its installation: the same folders serve other nodes that have them."""
    return [folder or os.getcwd() for folder in sys.path if not folder.startswith((sys.prefix, sys.base_prefix))]


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise SearchError("RayCluster needs Ray: pip install 'nas-engine[ray]'.") from error
    return ray
