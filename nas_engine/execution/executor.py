"""Where genomes are measured: what a search asks of any such place, and the simplest one, this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, Protocol

from nas_engine.execution.measuring import GenomeBatch, MeasurementPlan, Outcome, S
from nas_engine.ledger.ledger import Record
from search_spaces import Genome


class Executor(Protocol):
    """Measures the genomes of one search, wherever that happens."""

    @property
    def parallel(self) -> int:
        """How many genomes it measures at a time."""
        ...

    def evaluate(self, genomes: Sequence[Genome], front: Sequence[Record]) -> Iterator[Record]:
        """The record of each genome once, in any order, each as soon as it is there.

        Args:
            genomes: different ones, not measured before.
            front: the records that no other dominates, for evaluators that race.
        """
        ...


class Workplace(Protocol):
    """What a user passes as ``search(..., executor=)``: says where to measure, and holds nothing before the search."""

    def open(self, plan: MeasurementPlan[S]) -> AbstractContextManager[Executor]:
        """The executor of one search; leaving the context ends whatever it started, however the search ends.

        Raises:
            SearchError: it cannot measure this plan.
        """
        ...


@dataclass(frozen=True)
class ThisProcess:
    """Measures here, one sub-network after another."""

    def open(self, plan: MeasurementPlan[S]) -> AbstractContextManager[Executor]:
        """As `Workplace` says; there is nothing to end."""
        return nullcontext(InProcess(plan))


class InProcess(Generic[S]):
    """Measures here, one sub-network after another; made by `ThisProcess`.

    Attributes:
        batch: the latest one.
    """

    parallel = 1

    def __init__(self, plan: MeasurementPlan[S]) -> None:
        self._plan = plan
        self.batch: GenomeBatch[S] | None = None

    def evaluate(self, genomes: Sequence[Genome], front: Sequence[Record]) -> Iterator[Record]:
        """As `Executor` says; an evaluator that fails on a sub-network concerns that one alone."""
        ordered = self._plan.depth_first(genomes)
        self.batch = batch = GenomeBatch(
            self._plan, [*self._plan.alone, *self._plan.shared], ordered, front, self.batch
        )
        for position, genome in enumerate(ordered):
            *_, outcome = batch.measure(position, {})
            assert isinstance(outcome, Outcome)
            yield self._plan.record(genome, outcome)
