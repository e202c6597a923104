"""The search: a driver proposes, evaluators measure, the ledger remembers.

Resuming is replaying: a seeded driver runs again from its beginning, genomes that the ledger knows answer at once, and
the search continues as the uninterrupted one would have, with no state of the driver ever saved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np

from evaluators import Evaluator, Measurement
from evaluators import Subnetwork as SubnetworkProtocol
from nas_engine.front import Objective, SearchResult
from nas_engine.progress import progress_bar
from nas_engine.search.driver import Objectives
from nas_engine.search.drivers import DriverFactory, make_driver
from nas_engine.search.errors import SearchError
from nas_engine.search.goal import Goal
from nas_engine.search.ledger import Ledger, Record
from search_spaces import Configuration, Genome, SearchSpace

S = TypeVar("S", bound=SubnetworkProtocol, covariant=True)

_BATCHES_WITHOUT_NEWS = 200  # after so many batches of known genomes the space counts as exhausted
_FAILURES_TO_GIVE_UP = 10


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


def search(
    supernet: Searchable[S],
    evaluators: Sequence[Evaluator],
    driver: str | DriverFactory = "nsga2",
    evaluations: int = 200,
    population: int = 20,
    seed: int = 0,
    storage: str | Path | None = None,
    progress: bool = True,
    constraints: Sequence[str] = (),
    objectives: Sequence[str] | None = None,
) -> SearchResult[S]:
    """Look for the sub-networks that are worth deploying.

    Every measurement is in the ledger before the driver learns it: interrupted or killed, the same call goes on where
    it stopped and returns what an uninterrupted one would have.

    Args:
        supernet: a trained super-network.
        evaluators: what measures; each gives one column, and is an objective unless `objectives` leaves it out.
        driver: a name in `DRIVERS`, or a function that makes a driver of a `DriverProblem`.
        evaluations: how many different sub-networks to measure at most; fewer where the space holds fewer.
        population: of a generation.
        seed: of the driver.
        storage: run folder for the ledger, an Optuna database URL, or None to keep it in memory.
        progress: show a bar.
        constraints: what a sub-network must keep to be on the front, such as ``"latency <= 0.7 * reference"``, where
            `reference` is the largest sub-network's value; drivers prefer what comes nearer to keeping them.
        objectives: names of the evaluators that are to be optimized, where others only bound; None takes all.

    Raises:
        SearchError: bad arguments, or the first evaluations all failed (with the message of the first).
        LedgerError: the storage cannot be written, or belongs to another search.
    """
    _check(supernet.space, evaluators, evaluations)
    goal = Goal.of(evaluators, objectives, constraints)
    space = supernet.space

    def score(evaluator: Evaluator, genome: Genome) -> float:
        return evaluator(supernet.subnetwork(space.configuration(genome))).value

    chosen = make_driver(driver, goal.problem(space, score, population, seed, evaluations))
    ledger = Ledger(storage, supernet.space, supernet.fingerprint(), evaluators)
    run = _Run(supernet, evaluators, ledger, goal)
    evaluations = min(evaluations, supernet.space.size())
    idle = 0
    with progress_bar("Searching", evaluations, enabled=progress) as bar:
        while len(run.records) < evaluations and idle < _BATCHES_WITHOUT_NEWS:
            genomes = chosen.ask()
            if not len(genomes):
                break
            rows, before = [], len(run.records)
            for genome in genomes:
                if run.known(genome) is None and len(run.records) == evaluations:
                    return run.result()
                known = len(run.records)
                rows.append(run.objectives(genome))
                bar.advance(len(run.records) - known, front=run.front_size())
            idle = idle + 1 if len(run.records) == before else 0
            chosen.tell(genomes, *goal.told(np.array(rows), run.reference()))
    return run.result()


class _Run(Generic[S]):
    """The records of this run, in the order in which the driver asked for them."""

    def __init__(self, supernet: Searchable[S], evaluators: Sequence[Evaluator], ledger: Ledger, goal: Goal) -> None:
        self.supernet, self.evaluators, self.ledger, self.goal = supernet, evaluators, ledger, goal
        self.records: dict[tuple[int, ...], Record] = {}
        self._signs = goal.signs
        self._front: list[Objectives] = []

    def known(self, genome: Genome) -> Record | None:
        return self.records.get(tuple(genome.tolist()))

    def objectives(self, genome: Genome) -> Objectives:
        """All to be minimized, shape (objectives,); NaN where the evaluation failed."""
        record = self.known(genome)
        if record is None:
            record = self.ledger.get(genome)
            if record is None:
                record = self._evaluate(genome)
                self.ledger.append(record)
            self.records[record.genome] = record
            self._give_up_if_nothing_works()
            self._update_front(record)
        return self._row(record)

    def front_size(self) -> int:
        return len(self._front)

    def reference(self) -> Objectives | None:
        """The largest sub-network's row, shape (evaluators,); None where it was not measured."""
        record = self.known(self.supernet.space.largest)
        return None if record is None or record.error else self._row(record)

    def result(self) -> SearchResult[S]:
        optimized = {self.evaluators[i].name for i in self.goal.optimized}
        objectives = [Objective(e.name, e.direction, e.unit, e.name in optimized) for e in self.evaluators]
        return SearchResult(self.supernet, objectives, list(self.records.values()), self.goal.constraints)

    def _row(self, record: Record) -> Objectives:
        if record.error:
            return np.full(len(self.evaluators), np.nan)
        row: Objectives = self._signs * np.array([m.value for m in record.measurements])
        return row

    def _update_front(self, record: Record) -> None:
        row = self._row(record)
        if record.error or any((other <= row).all() and (other < row).any() for other in self._front):
            return
        self._front = [other for other in self._front if not ((row <= other).all() and (row < other).any())] + [row]

    def _evaluate(self, genome: Genome) -> Record:
        key = tuple(genome.tolist())
        subnet = self.supernet.subnetwork(self.supernet.space.configuration(genome))
        measurements = []
        for evaluator in self.evaluators:
            try:
                measurements.append(_checked(evaluator(subnet)))
            # An evaluator may be anybody's code: whatever it raises concerns this sub-network alone.
            except Exception as error:
                return Record(key, (), f"{evaluator.name}: {type(error).__name__}: {error}")
        return Record(key, tuple(measurements))

    def _give_up_if_nothing_works(self) -> None:
        if len(self.records) == _FAILURES_TO_GIVE_UP and all(r.error for r in self.records.values()):
            first = next(iter(self.records.values()))
            raise SearchError(
                f"the first {_FAILURES_TO_GIVE_UP} evaluations all failed, the first with: {first.error}. "
                "Mend the evaluator and use another run folder: failures are kept in the ledger too."
            )


def _checked(measurement: Measurement) -> Measurement:
    if not isinstance(measurement, Measurement):
        raise TypeError(f"returned {measurement!r}; an evaluator returns a Measurement")
    if not math.isfinite(measurement.value):
        raise ValueError(f"returned {measurement.value}, which is no finite number")
    return Measurement(float(measurement.value), float(measurement.stderr), int(measurement.n))


def _check(space: SearchSpace, evaluators: Sequence[Evaluator], evaluations: int) -> None:
    names = [e.name for e in evaluators]
    if not names:
        raise SearchError("evaluators is empty; give at least one, such as ParameterCount().")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SearchError(f"two evaluators are named {repeated[0]!r}; give one of them another name=.")
    taken = set(space.names) | {"error", "feasible", "on_front"} | {f"{name}_stderr" for name in names}
    clash = sorted(taken & set(names))
    if clash:
        raise SearchError(f"an evaluator is named {clash[0]!r}, which is another column's name; rename it.")
    for e in evaluators:
        if e.direction not in ("minimize", "maximize"):
            raise SearchError(f"the direction of {e.name} is {e.direction!r}; choose 'minimize' or 'maximize'.")
    if evaluations < 1:
        raise SearchError(f"evaluations is {evaluations}; it must be at least 1.")
    if not len(space):
        raise SearchError("the space has no gene with two values or more; there is nothing to search.")
