"""What a worker process does: it holds the super-network once, and measures what it is told to. Knows no transport.

Evaluators travel as bytes by cloudpickle, from the process that runs the search straight to a worker that it started,
and never through a file. The super-network travels as the files that it saves.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import cloudpickle
import numpy as np
import torch

from evaluators import Evaluator, Measurement, computing
from evaluators.latency.machine import cpu_threads
from nas_engine.errors import SearchError
from nas_engine.execution.measuring import Began, GenomeBatch, MeasurementPlan, Outcome, S, Searchable
from nas_engine.ledger.ledger import Record
from nas_engine.supernet import SuperNetwork

Key = tuple[int, ...]  # a genome


@dataclass(frozen=True)
class Shipment:
    """Everything a worker needs to begin.

    Args:
        supernet: the object, packed, where it is none of ours that is saved as files; else None.
        evaluators: packed, without the super-network that they may refer to.
        fingerprint: the super-network's.
        dtype: to load its files in, such as ``float32``; empty where it is packed.
        device: to load it on.
        seconds: the time limit of an evaluator.
        optimized: positions of the evaluators that the front is about; None for all of them.
        threads: CPU threads of the worker.
        threads_alone: CPU threads where it has the machine to itself: those of the process that runs the search.
    """

    supernet: bytes | None
    evaluators: bytes
    fingerprint: str
    dtype: str
    device: str
    seconds: float | None
    optimized: tuple[int, ...] | None
    threads: int
    threads_alone: int


@dataclass(frozen=True)
class Chunk:
    """Neighbours that one worker is to measure.

    Args:
        genomes: in the order in which they share the most.
        front: the records that no other dominates, for evaluators that race.
        alone: by the evaluators beside which nothing else may run, or by the others.
    """

    genomes: tuple[Key, ...]
    front: tuple[Record, ...]
    alone: bool


@dataclass(frozen=True)
class Task:
    """Measure one genome.

    Args:
        position: in the chunk.
        known: what is measured already of the genome.
        chunk: a new one that the worker begins; None goes on with the one before.
    """

    position: int
    known: Mapping[str, Measurement]
    chunk: Chunk | None = None


@dataclass(frozen=True)
class Arrived:
    """The worker runs, at `place`: workers at the same place disturb each other's timings."""

    place: str


@dataclass(frozen=True)
class Ready:
    """The super-network is loaded. `cannot_time` says why times taken here are not those that are asked for."""

    cannot_time: str = ""


@dataclass(frozen=True)
class Refused:
    """The search cannot go on."""

    message: str


Event = Arrived | Ready | Began | Outcome | Refused


class Worker(Generic[S]):
    """The super-network and the evaluators in a process of their own.

    Args:
        shipment: from the process that runs the search.
        folder: with the files of the super-network.

    Raises:
        SearchError: what was loaded is not what was sent.
    """

    def __init__(self, shipment: Shipment, folder: Path) -> None:
        torch.set_num_threads(shipment.threads)
        self._threads_alone = shipment.threads_alone
        with computing(shipment.device):  # loading would falsify what is timed meanwhile
            supernet = _loaded(shipment, folder)
        if supernet.fingerprint() != shipment.fingerprint:
            raise SearchError(
                "the super-network that a worker loaded is not the one that is searched: its base model has changed, "
                f"or differs on this machine (fingerprint {supernet.fingerprint()} there, {shipment.fingerprint} here)."
            )
        evaluators = _unpacked(shipment.evaluators, supernet)
        self.plan: MeasurementPlan[S] = MeasurementPlan(supernet, evaluators, shipment.seconds, shipment.optimized)
        self._batch: GenomeBatch[S] | None = None
        self._batch_threads: int | None = None

    def cannot_time(self, settings: Sequence[Mapping[str, Any]]) -> str:
        """Why times taken here would not be those of `settings`, which the search's own process gave; else empty."""
        for evaluator, wanted in zip(self.plan.alone, settings, strict=True):
            try:
                with cpu_threads(self._threads_alone):
                    found = dict(evaluator.settings())
            except Exception as error:  # anybody's code
                return f"{evaluator.name}: {type(error).__name__}: {error}"
            if found != dict(wanted):
                return f"{evaluator.name} would measure with {found} there, and is to measure with {dict(wanted)}"
        return ""

    def measure(self, task: Task) -> Iterator[Event]:
        """Each evaluator as it begins, and at last the outcome; or why the search cannot go on."""
        try:
            if task.chunk is not None:
                self._begin(task.chunk)
            assert self._batch is not None, "the first task of a worker begins a chunk"
            with cpu_threads(self._batch_threads):
                yield from self._batch.measure(task.position, task.known)
        except SearchError as error:
            yield Refused(str(error))
        except Exception as error:  # what evaluators raise outside of measuring, the search has to say
            yield Refused(f"a worker failed: {_reason(error)}")

    def _begin(self, chunk: Chunk) -> None:
        genomes = [np.array(key, dtype=np.int64) for key in chunk.genomes]
        evaluators = self.plan.alone if chunk.alone else self.plan.shared
        self._batch = GenomeBatch(self.plan, evaluators, genomes, chunk.front, self._batch)
        self._batch_threads = self._threads_alone if chunk.alone else None


def save_supernet(supernet: Searchable[S], folder: Path) -> None:
    """Write the files that workers load a `SuperNetwork` of; others travel as objects."""
    if isinstance(supernet, SuperNetwork):
        supernet.save(folder)


def packed_supernet(supernet: Searchable[S]) -> bytes | None:
    """A super-network that is no `SuperNetwork`, as bytes; None for one that is saved as files.

    Raises:
        SearchError: it cannot be packed.
    """
    if isinstance(supernet, SuperNetwork):
        return None
    try:
        return cloudpickle.dumps(supernet)  # type: ignore[no-any-return]
    except Exception as error:  # whatever an object of anybody's raises when it is packed
        raise SearchError(f"the super-network cannot be sent to a worker: {_reason(error)}.") from error


def packed_evaluators(evaluators: Sequence[Evaluator], supernet: Searchable[S]) -> bytes:
    """The evaluators as bytes. Where they refer to the super-network, a worker's will refer to the worker's.

    Raises:
        SearchError: one cannot be packed; it is named.
    """
    for evaluator in evaluators:
        try:
            _dumps(evaluator, supernet)
        except Exception as error:  # whatever an object of anybody's raises when it is packed
            raise SearchError(
                f"{evaluator.name} cannot be sent to a worker: {_reason(error)}. Let it open files, connections and "
                "locks when it is called, or measure in this process (executor=None)."
            ) from error
    return _dumps(list(evaluators), supernet)


def shipment(plan: MeasurementPlan[S], threads: int, device: str | None = None) -> Shipment:
    """What a worker needs for `plan`, without the super-network's files.

    Args:
        threads: CPU threads of each worker.
        device: to load the super-network on; the one where it is by default.

    Raises:
        SearchError: something cannot be sent.
    """
    supernet = plan.supernet
    return Shipment(
        packed_supernet(supernet),
        packed_evaluators(plan.evaluators, supernet),
        supernet.fingerprint(),
        str(supernet.model.dtype).removeprefix("torch.") if isinstance(supernet, SuperNetwork) else "",
        device or supernet.device,
        plan.seconds,
        None if plan.optimized is None else tuple(plan.optimized),
        threads,
        torch.get_num_threads(),
    )


def _loaded(shipment: Shipment, folder: Path) -> Searchable[Any]:
    if shipment.supernet is not None:
        supernet: Searchable[Any] = pickle.loads(shipment.supernet)  # sent by the process that started this one
        return supernet
    loaded = SuperNetwork.load(folder, getattr(torch, shipment.dtype))
    loaded.model.to(torch.device(shipment.device))  # type: ignore[arg-type]
    return loaded


def _parts(supernet: Searchable[S]) -> dict[str, object]:
    """What workers have of their own, and what is left out of evaluators that refer to it."""
    if isinstance(supernet, SuperNetwork):
        return {"supernet": supernet, "model": supernet.model, "tokenizer": supernet.tokenizer}
    return {"supernet": supernet}


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO, supernet: Searchable[S]) -> None:
        super().__init__(file)
        self._names = {id(part): name for name, part in _parts(supernet).items()}

    def persistent_id(self, obj: object) -> str | None:
        return self._names.get(id(obj))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, supernet: Searchable[S]) -> None:
        super().__init__(file)
        self._parts = _parts(supernet)

    def persistent_load(self, pid: str) -> object:
        return self._parts[pid]


def _dumps(value: object, supernet: Searchable[S]) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, supernet).dump(value)
    return buffer.getvalue()


def _unpacked(evaluators: bytes, supernet: Searchable[S]) -> list[Evaluator]:
    unpacked: list[Evaluator] = _Unpickler(io.BytesIO(evaluators), supernet).load()
    return unpacked


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
