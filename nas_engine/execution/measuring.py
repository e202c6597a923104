"""What is done to a genome, wherever that is done: its evaluators run one after another, and what they say is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np

from evaluators import BatchEvaluator, BusyError, Evaluator, Measurement, Session, computing, depth_first, sign_of
from evaluators import Subnetwork as SubnetworkProtocol
from nas_engine.drivers.driver import Objectives
from nas_engine.errors import SearchError
from nas_engine.execution.time_limit import time_limit
from nas_engine.ledger.ledger import Record
from search_spaces import Configuration, Genome, SearchSpace

S = TypeVar("S", bound=SubnetworkProtocol, covariant=True)


class Searchable(Protocol[S]):
    """What a search needs of a super-network. A class of your own inherits the last two from `SearchableDefaults`."""

    @property
    def space(self) -> SearchSpace:
        """What may vary."""
        ...

    def fingerprint(self) -> str:
        """Changes whenever a sub-network's scores may."""
        ...

    def subnetwork(self, configuration: Configuration) -> S:
        """The sub-network to evaluate."""
        ...

    @property
    def target(self) -> str | None:
        """Where its sub-networks will run, one of `nas_engine.deploy.TARGETS`; None for anywhere."""
        ...

    @property
    def device(self) -> str:
        """Where its sub-networks compute, such as ``cuda:0``."""
        ...


class SearchableDefaults:
    """What something that is searched says of itself unless it says otherwise."""

    @property
    def target(self) -> str | None:
        """None: anywhere."""
        return None

    @property
    def device(self) -> str:
        """The CPU."""
        return "cpu"


@dataclass(frozen=True)
class Began:
    """An evaluator begins to run."""

    evaluator: str


@dataclass(frozen=True)
class Outcome:
    """What was learned of one genome so far.

    Args:
        measured: by evaluator.
        error: why an evaluator failed; empty where none did.
    """

    measured: Mapping[str, Measurement] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class MeasurementPlan(Generic[S]):
    """What a search has measured, and by what.

    Args:
        supernet: gives the sub-networks.
        evaluators: what measures; each gives one number of a record.
        seconds: a sub-network fails on which an evaluator takes longer than this; None waits.
        optimized: positions of the evaluators that the front is about; None for all of them.
    """

    supernet: Searchable[S]
    evaluators: Sequence[Evaluator]
    seconds: float | None = None
    optimized: Sequence[int] | None = None

    @property
    def alone(self) -> list[Evaluator]:
        """The evaluators beside which nothing else may run. They come first: whoever races needs their scores."""
        return [e for e in self.evaluators if e.alone]

    @property
    def shared(self) -> list[Evaluator]:
        """The others, those last that race."""
        return sorted((e for e in self.evaluators if not e.alone), key=_races)

    def depth_first(self, genomes: Sequence[Genome]) -> list[Genome]:
        """The order in which `genomes` share the most, where an evaluator makes use of it; else as given."""
        if not any(isinstance(e, BatchEvaluator) for e in self.evaluators):
            return list(genomes)
        return [genomes[i] for i in depth_first(self.subnetworks(genomes))]

    def subnetworks(self, genomes: Sequence[Genome]) -> list[S]:
        """The sub-network of each genome."""
        return [self.supernet.subnetwork(self.supernet.space.configuration(genome)) for genome in genomes]

    def record(self, genome: Genome, outcome: Outcome) -> Record:
        """What the ledger keeps of `genome` once every evaluator has measured it or one has failed."""
        measurements = () if outcome.error else tuple(outcome.measured[e.name] for e in self.evaluators)
        return Record(tuple(genome.tolist()), measurements, outcome.error)


class GenomeBatch(Generic[S]):
    """Sub-networks measured one after another in one process, which share what they can.

    Args:
        plan: what they belong to.
        evaluators: those of the plan that measure them here, in this order.
        genomes: in the order in which they share the most.
        front: the records that no other dominates, for evaluators that race.
        before: an earlier batch of this plan in this process, whose work may be of use.
    """

    def __init__(
        self,
        plan: MeasurementPlan[S],
        evaluators: Sequence[Evaluator],
        genomes: Sequence[Genome],
        front: Sequence[Record],
        before: GenomeBatch[S] | None = None,
    ) -> None:
        self._plan, self._evaluators, self._front = plan, evaluators, front
        self._subnets = plan.subnetworks(genomes)
        earlier = {} if before is None else before.sessions
        # By evaluator; those of an evaluator that does not measure here wait for a batch in which it does.
        self.sessions: dict[str, Session] = earlier | {
            e.name: e.session(self._subnets, earlier.get(e.name)) for e in evaluators if isinstance(e, BatchEvaluator)
        }

    def measure(self, position: int, known: Mapping[str, Measurement]) -> Iterator[Began | Outcome]:
        """Measure the sub-network at `position`: each evaluator as it begins, and at last the outcome.

        An evaluator that fails on a sub-network concerns that one alone.

        Args:
            position: ascending from call to call; some may be left out.
            known: what other evaluators have measured of it.

        Raises:
            SearchError: an evaluator cannot measure anything now, because others use the device.
        """
        measured = dict(known)
        for evaluator in self._evaluators:
            try:
                with self._shared_device(evaluator):
                    yield Began(evaluator.name)
                    with time_limit(self._plan.seconds):
                        measurement = self._measurement(evaluator, position, measured)
                measured[evaluator.name] = _checked(measurement)
            except BusyError as error:
                raise SearchError(f"{evaluator.name} cannot be measured: {error}") from error
            # An evaluator may be anybody's code: whatever it raises concerns this sub-network alone.
            except Exception as error:
                yield Outcome(measured, f"{evaluator.name}: {type(error).__name__}: {error}")
                return
        yield Outcome(measured)

    def _measurement(self, evaluator: Evaluator, position: int, measured: Mapping[str, Measurement]) -> Measurement:
        if not isinstance(evaluator, BatchEvaluator):
            return evaluator(self._subnets[position])
        rival = best_rival(self._plan.evaluators, evaluator, measured, self._front, self._plan.optimized)
        return self.sessions[evaluator.name].measure(position, rival)

    def _shared_device(self, evaluator: Evaluator) -> AbstractContextManager[None]:
        """Whoever times waits until this is over; an evaluator that times sees to it itself."""
        return nullcontext() if evaluator.alone else computing(self._plan.supernet.device)


def best_rival(
    evaluators: Sequence[Evaluator],
    evaluator: Evaluator,
    measured: Mapping[str, Measurement],
    front: Sequence[Record],
    optimized: Sequence[int] | None = None,
) -> Measurement | None:
    """The best score of `evaluator` among records of the front that are at least as good in every other objective.

    Among equal scores that of the first genome in lexicographic order, so that the order in which records arrived does
    not decide. None where there is no such record, other objectives are not measured yet, or the evaluator only bounds.
    """
    index = next(i for i, e in enumerate(evaluators) if e is evaluator)
    wanted = range(len(evaluators)) if optimized is None else optimized
    others = [i for i in wanted if i != index]
    if index not in wanted or any(evaluators[i].name not in measured for i in others):
        return None
    ours = _minimized(evaluators, [measured.get(e.name) for e in evaluators])
    rivals = [record for record in front if (_minimized(evaluators, record.measurements)[others] <= ours[others]).all()]
    sign = sign_of(evaluator.direction)
    best = min(rivals, key=lambda r: (sign * r.measurements[index].value, r.genome), default=None)
    return None if best is None else best.measurements[index]


def _races(evaluator: Evaluator) -> bool:
    return isinstance(evaluator, BatchEvaluator) and evaluator.races


def _minimized(evaluators: Sequence[Evaluator], measurements: Sequence[Measurement | None]) -> Objectives:
    return np.array(
        [
            math.nan if m is None else sign_of(e.direction) * m.value
            for e, m in zip(evaluators, measurements, strict=True)
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
