"""Where genomes are measured. In this process, one after another; sub-networks of a batch share what they can."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, Protocol, TypeVar

import numpy as np

from evaluators import BatchEvaluator, BusyError, Evaluator, Measurement, Session, computing, depth_first
from evaluators import Subnetwork as SubnetworkProtocol
from nas_engine.search.driver import Objectives
from nas_engine.search.errors import SearchError
from nas_engine.search.ledger import Record
from nas_engine.search.time_limit import time_limit
from search_spaces import Configuration, Genome, SearchSpace

S = TypeVar("S", bound=SubnetworkProtocol, covariant=True)


class Searchable(Protocol[S]):
    """What a search needs of a super-network."""

    @property
    def space(self) -> SearchSpace:
        """Its genes."""
        ...

    def fingerprint(self) -> str:
        """Changes whenever a sub-network's scores may."""
        ...

    def subnetwork(self, configuration: Configuration) -> S:
        """The sub-network to evaluate."""
        ...


class Executor(Protocol):
    """Measures genomes, wherever that happens."""

    def evaluate(self, genomes: Sequence[Genome], front: Sequence[Record]) -> Iterator[Record]:
        """The record of each genome once, in any order, each as soon as it is there.

        Args:
            genomes: different ones, not measured before.
            front: the records that no other dominates, for evaluators that race.
        """
        ...


class InProcess(Generic[S]):
    """Measures here, one sub-network after another.

    Args:
        supernet: gives the sub-networks.
        evaluators: what measures.
        seconds: a sub-network fails on which an evaluator takes longer than this; None waits.
        optimized: positions of the evaluators that the front is about; None for all of them.
    """

    def __init__(
        self,
        supernet: Searchable[S],
        evaluators: Sequence[Evaluator],
        seconds: float | None = None,
        optimized: Sequence[int] | None = None,
    ) -> None:
        self._supernet, self._evaluators, self._seconds = supernet, evaluators, seconds
        self._optimized = set(range(len(evaluators)) if optimized is None else optimized)
        # Whoever races needs the other objectives first.
        self._order = sorted(evaluators, key=lambda e: isinstance(e, BatchEvaluator) and e.races)

    def evaluate(self, genomes: Sequence[Genome], front: Sequence[Record]) -> Iterator[Record]:
        """As `Executor` says; an evaluator that fails on a sub-network concerns that one alone."""
        subnets = [self._supernet.subnetwork(self._supernet.space.configuration(genome)) for genome in genomes]
        shared = [e for e in self._evaluators if isinstance(e, BatchEvaluator)]
        order = depth_first(subnets) if shared else list(range(len(subnets)))
        sessions = {e.name: e.session([subnets[i] for i in order]) for e in shared}
        for position, i in enumerate(order):
            yield self._record(genomes[i], subnets[i], position, sessions, front)

    def _record(
        self,
        genome: Genome,
        subnet: SubnetworkProtocol,
        position: int,
        sessions: Mapping[str, Session],
        front: Sequence[Record],
    ) -> Record:
        key, measured = tuple(genome.tolist()), dict[str, Measurement]()
        for evaluator in self._order:
            try:
                with self._shared_device(evaluator), time_limit(self._seconds):
                    if evaluator.name in sessions:
                        rival = self._rival(evaluator, measured, front)
                        measurement = sessions[evaluator.name].measure(position, rival)
                    else:
                        measurement = evaluator(subnet)
                measured[evaluator.name] = _checked(measurement)
            except BusyError as error:
                raise SearchError(f"{evaluator.name} cannot be measured: {error}") from error
            # An evaluator may be anybody's code: whatever it raises concerns this sub-network alone.
            except Exception as error:
                return Record(key, (), f"{evaluator.name}: {type(error).__name__}: {error}")
        return Record(key, tuple(measured[evaluator.name] for evaluator in self._evaluators))

    def _shared_device(self, evaluator: Evaluator) -> AbstractContextManager[None]:
        """Whoever times waits until this is over; an evaluator that times sees to it itself."""
        if getattr(evaluator, "alone", False):
            return nullcontext()
        return computing(getattr(getattr(self._supernet, "model", None), "device", "cpu"))

    def _rival(
        self, evaluator: Evaluator, measured: Mapping[str, Measurement], front: Sequence[Record]
    ) -> Measurement | None:
        """The best score among records of the front that are at least as good in every other objective.

        None where there is no such record, other objectives are not measured yet, or the evaluator only bounds.
        """
        index = next(i for i, e in enumerate(self._evaluators) if e is evaluator)
        others = sorted(self._optimized - {index})
        if index not in self._optimized or any(self._evaluators[i].name not in measured for i in others):
            return None
        ours = self._minimized([measured.get(e.name) for e in self._evaluators])
        rivals = [
            record.measurements[index]
            for record in front
            if (self._minimized(record.measurements)[others] <= ours[others]).all()
        ]
        sign = 1.0 if evaluator.direction == "maximize" else -1.0
        return max(rivals, key=lambda m: sign * m.value, default=None)

    def _minimized(self, measurements: Sequence[Measurement | None]) -> Objectives:
        return np.array(
            [
                math.nan if m is None else m.value if e.direction == "minimize" else -m.value
                for e, m in zip(self._evaluators, measurements, strict=True)
            ]
        )


def _checked(measurement: Measurement) -> Measurement:
    if not isinstance(measurement, Measurement):
        raise TypeError(f"returned {measurement!r}; an evaluator returns a Measurement")
    if not math.isfinite(measurement.value):
        raise ValueError(f"returned {measurement.value}, which is no finite number")
    return Measurement(
        float(measurement.value), float(measurement.stderr), int(measurement.n), str(measurement.outcomes)
    )
