"""Where genomes are measured: what a search asks of any such place, and the simplest one, this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, Protocol

from nas_engine.execution.measuring import GenomeBatch, Job, Outcome, S
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

    def open(self, job: Job[S]) -> AbstractContextManager[Executor]:
        """The executor of one search; leaving the context ends whatever it started, however the search ends.

        Raises:
            SearchError: it cannot measure this job.
        """
        ...


@dataclass(frozen=True)
class ThisProcess:
    """Measures here, one sub-network after another."""

    def open(self, job: Job[S]) -> AbstractContextManager[Executor]:
        """As `Workplace` says; there is nothing to end."""
        return nullcontext(InProcess(job))


class InProcess(Generic[S]):
    """Measures here, one sub-network after another; made by `ThisProcess`.

    Attributes:
        batch: the latest one.
    """

    parallel = 1

    def __init__(self, job: Job[S]) -> None:
        self._job = job
        self.batch: GenomeBatch[S] | None = None

    def evaluate(self, genomes: Sequence[Genome], front: Sequence[Record]) -> Iterator[Record]:
        """As `Executor` says; an evaluator that fails on a sub-network concerns that one alone."""
        ordered = self._job.depth_first(genomes)
        self.batch = batch = GenomeBatch(self._job, [*self._job.alone, *self._job.shared], ordered, front, self.batch)
        for position, genome in enumerate(ordered):
            *_, outcome = batch.measure(position, {})
            assert isinstance(outcome, Outcome)
            yield self._job.record(genome, outcome)
