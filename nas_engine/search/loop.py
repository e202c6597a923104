"""The search: a driver proposes, evaluators measure, the ledger remembers.

Resuming is replaying: a seeded driver runs again from its beginning, genomes that the ledger knows answer at once, and
the search continues as the uninterrupted one would have, with no state of the driver ever saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Generic

import numpy as np

from evaluators import Evaluator
from nas_engine.front import Objective, SearchResult
from nas_engine.progress import progress_bar
from nas_engine.search.driver import Objectives
from nas_engine.search.drivers import DriverFactory, make_driver
from nas_engine.search.errors import SearchError
from nas_engine.search.executor import Executor, InProcess, S, Searchable
from nas_engine.search.ledger import Ledger, Record
from search_spaces import Genome, SearchSpace

_BATCHES_WITHOUT_NEWS = 200  # after so many batches of known genomes the space counts as exhausted
_FAILURES_TO_GIVE_UP = 10


def search(
    supernet: Searchable[S],
    evaluators: Sequence[Evaluator],
    driver: str | DriverFactory = "nsga2",
    evaluations: int = 200,
    population: int = 20,
    seed: int = 0,
    storage: str | Path | None = None,
    time_limit_seconds: float | None = None,
    progress: bool = True,
) -> SearchResult[S]:
    """Look for the sub-networks that are worth deploying.

    Every measurement is in the ledger before the driver learns it: interrupted or killed, the same call goes on where
    it stopped and returns what an uninterrupted one would have.

    Args:
        supernet: a trained super-network.
        evaluators: the objectives; each gives one column.
        driver: ``nsga2``, ``optuna-nsga2``, ``optuna-tpe``, ``random``, or a function that makes a driver.
        evaluations: how many different sub-networks to measure at most; fewer where the space holds fewer.
        population: of a generation.
        seed: of the driver.
        storage: run folder for the ledger, an Optuna database URL, or None to keep it in memory.
        time_limit_seconds: a sub-network fails on which one evaluator takes longer; None waits.
        progress: show a bar.

    Raises:
        SearchError: bad arguments, or the first evaluations all failed (with the message of the first).
        LedgerError: the storage cannot be written, or belongs to another search.
    """
    _check(supernet.space, evaluators, evaluations, time_limit_seconds)
    chosen = make_driver(driver, supernet.space, len(evaluators), population, seed)
    ledger = Ledger(storage, supernet.space, supernet.fingerprint(), evaluators)
    run = _Run(supernet, evaluators, ledger, InProcess(supernet, evaluators, time_limit_seconds))
    evaluations = min(evaluations, supernet.space.size())
    idle = 0
    with progress_bar("Searching", evaluations, enabled=progress) as bar:
        while len(run.records) < evaluations and idle < _BATCHES_WITHOUT_NEWS:
            genomes = chosen.ask()
            if not len(genomes):
                break
            new = run.unmeasured(genomes)
            for _ in run.measure(new[: evaluations - len(run.records)]):
                bar.advance(front=run.front_size())
            if len(run.unmeasured(genomes)):
                break  # the budget ends within the batch
            idle = 0 if new else idle + 1
            chosen.tell(genomes, run.objectives(genomes))
    return run.result()


class _Run(Generic[S]):
    """The records of this run, in the order in which the driver asked for them."""

    def __init__(
        self, supernet: Searchable[S], evaluators: Sequence[Evaluator], ledger: Ledger, executor: Executor
    ) -> None:
        self.supernet, self.evaluators, self.ledger, self.executor = supernet, evaluators, ledger, executor
        self.records: dict[tuple[int, ...], Record] = {}
        self._signs = np.array([1.0 if e.direction == "minimize" else -1.0 for e in evaluators])
        self._front: list[Record] = []
        self._first: list[Record] = []  # to see whether anything works

    def unmeasured(self, genomes: Genome) -> list[Genome]:
        """Those of `genomes` that have no record in this run, each once."""
        fresh = {tuple(genome.tolist()): genome for genome in genomes}
        return [genome for key, genome in fresh.items() if key not in self.records]

    def measure(self, genomes: Sequence[Genome]) -> Iterator[Record]:
        """Give `genomes` their records, out of the ledger or measured anew; each is given as soon as it is there.

        The front that races are run against is the one before the batch: which of its records the ledger knows
        already makes no difference to the others.
        """
        found: dict[tuple[int, ...], Record] = {}
        missing, front = [], list(self._front)
        for genome in genomes:
            record = self.ledger.get(genome)
            if record is None:
                missing.append(genome)
            else:
                found[record.genome] = record
                yield self._arrived(record)
        for measured in self.executor.evaluate(missing, front) if missing else ():
            record = self.ledger.append(measured)  # what another process was faster with holds
            found[record.genome] = record
            yield self._arrived(record)
        self.records |= {key: found[key] for key in (tuple(genome.tolist()) for genome in genomes)}

    def objectives(self, genomes: Genome) -> Objectives:
        """All to be minimized, shape (genomes, objectives); NaN where the evaluation failed."""
        return np.array([self._row(self.records[tuple(genome.tolist())]) for genome in genomes])

    def front_size(self) -> int:
        return len(self._front)

    def result(self) -> SearchResult[S]:
        objectives = [Objective(e.name, e.direction, e.unit) for e in self.evaluators]
        return SearchResult(self.supernet, objectives, list(self.records.values()), storage=self.ledger.storage)

    def _arrived(self, record: Record) -> Record:
        self._give_up_if_nothing_works(record)
        self._update_front(record)
        return record

    def _row(self, record: Record) -> Objectives:
        if record.error:
            return np.full(len(self.evaluators), np.nan)
        row: Objectives = self._signs * np.array([m.value for m in record.measurements])
        return row

    def _update_front(self, record: Record) -> None:
        row = self._row(record)
        rows = [self._row(other) for other in self._front]
        if record.error or any(_dominates(other, row) for other in rows):
            return
        kept = [r for r, other in zip(self._front, rows, strict=True) if not _dominates(row, other)]
        self._front = [*kept, record]

    def _give_up_if_nothing_works(self, record: Record) -> None:
        if len(self._first) == _FAILURES_TO_GIVE_UP:
            return
        self._first.append(record)
        if len(self._first) == _FAILURES_TO_GIVE_UP and all(r.error for r in self._first):
            raise SearchError(
                f"the first {_FAILURES_TO_GIVE_UP} evaluations all failed, the first with: {self._first[0].error}. "
                "Mend the evaluator and use another run folder: failures are kept in the ledger too."
            )


def _dominates(a: Objectives, b: Objectives) -> bool:
    return bool((a <= b).all() and (a < b).any())


def _check(
    space: SearchSpace, evaluators: Sequence[Evaluator], evaluations: int, time_limit_seconds: float | None
) -> None:
    names = [e.name for e in evaluators]
    if not names:
        raise SearchError("evaluators is empty; give at least one, such as ParameterCount().")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SearchError(f"two evaluators are named {repeated[0]!r}; give one of them another name=.")
    taken = set(space.names) | {"error", "on_front"} | {f"{name}{what}" for name in names for what in ("_stderr", "_n")}
    clash = sorted(taken & set(names))
    if clash:
        raise SearchError(f"an evaluator is named {clash[0]!r}, which is another column's name; rename it.")
    for e in evaluators:
        if e.direction not in ("minimize", "maximize"):
            raise SearchError(f"the direction of {e.name} is {e.direction!r}; choose 'minimize' or 'maximize'.")
    if evaluations < 1:
        raise SearchError(f"evaluations is {evaluations}; it must be at least 1.")
    if time_limit_seconds is not None and not time_limit_seconds > 0:
        raise SearchError(f"time_limit_seconds is {time_limit_seconds}; give seconds above 0, or None for no limit.")
    if not len(space):
        raise SearchError("the space has no gene with two values or more; there is nothing to search.")
