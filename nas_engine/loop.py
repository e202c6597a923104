"""The search: a driver proposes, evaluators measure, the ledger remembers.

Resuming is replaying: a seeded driver runs again from its beginning, genomes that the ledger knows answer at once, and
the search continues as the uninterrupted one would have, with no state of the driver ever saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import numpy as np

from evaluators import Evaluator, EvaluatorError, require_evaluator, sign_of
from evaluators.behaviour.comparison import compared_with, lacks_base
from nas_engine.deploy.targets import TARGETS
from nas_engine.drivers.driver import Driver, Objectives
from nas_engine.drivers.registry import DriverFactory, make_driver, require_driver_name
from nas_engine.errors import SearchError
from nas_engine.execution.executor import Executor, ThisProcess, Workplace
from nas_engine.execution.measuring import MeasurementPlan, S, Searchable
from nas_engine.goal.goal import Goal
from nas_engine.keywords import merged, takes
from nas_engine.ledger.ledger import Ledger, Record
from nas_engine.progress import progress_bar
from nas_engine.results.dominance import non_dominated
from nas_engine.results.result import SearchResult
from nas_engine.results.table import Objective
from search_spaces import Genome, SearchSpace

_BATCHES_WITHOUT_NEWS = 200  # after so many batches of known genomes the space counts as exhausted
_FAILURES_TO_GIVE_UP = 10


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How a search goes, and what it is after.

    Args:
        driver: a name in `DRIVERS`, or a function that makes a driver of a `DriverProblem`.
        evaluations: different sub-networks to measure at most; fewer where the space holds fewer.
        population: of a generation.
        seed: of the driver.
        constraints: what a sub-network must keep to be on the front, such as ``"latency <= 0.7 * reference"``, where
            `reference` is the largest sub-network's value; drivers prefer what comes nearer to keeping them.
        objectives: names of the evaluators that are to be optimized, where others only bound; None takes all.
        time_limit_seconds: a sub-network fails on which one evaluator takes longer; None waits.

    Raises:
        SearchError: one of them is out of its range.
    """

    driver: str | DriverFactory = "auto"
    evaluations: int = 200
    population: int = 20
    seed: int = 0
    constraints: Sequence[str] = ()
    objectives: Sequence[str] | None = None
    time_limit_seconds: float | None = None

    def __post_init__(self) -> None:
        require_driver_name(self.driver)
        if self.evaluations < 1 or self.population < 2:
            raise SearchError(
                f"evaluations is {self.evaluations} and population is {self.population}; give at least 1 and 2."
            )
        if self.seed < 0:
            raise SearchError(f"seed is {self.seed}; give at least 0.")
        limit = self.time_limit_seconds
        if limit is not None and not limit > 0:
            raise SearchError(f"time_limit_seconds is {limit}; give seconds above 0, or None for no limit.")


@takes(SearchSettings)
def search(
    supernet: Searchable[S],
    evaluators: Sequence[Evaluator],
    settings: SearchSettings | str | DriverFactory | None = None,
    *,
    storage: str | Path | None = None,
    executor: Workplace | None = None,
    sensitivity: Mapping[str, Sequence[float]] | None = None,
    progress: bool = True,
    **fields: Any,
) -> SearchResult[S]:
    """Look for the sub-networks that are worth deploying.

    Every measurement is in the ledger before the driver learns it: interrupted or killed, the same call goes on where
    it stopped and returns what an uninterrupted one would have.

    Args:
        supernet: a trained super-network.
        evaluators: what measures; each gives one column, and is an objective unless `objectives` leaves it out. Those
            that compare with a base and were given none compare with the largest sub-network.
        settings: which driver, how many evaluations, what is optimized and kept; or its fields by name,
            ``search(…, evaluations=50)``; or the driver alone.
        storage: run folder for the ledger, an Optuna database URL, or None to keep it in memory.
        executor: where sub-networks are measured: ``WorkerPool(2)``, ``RayCluster(8)``; None measures in this process.
        sensitivity: what ``supernet.sensitivity(texts)`` gave, for the drivers ``surrogate`` and ``milp``, or
            ``auto`` where it takes the former.
        progress: show a bar.

    Raises:
        SearchError: bad arguments, a sensitivity of another space or for a driver that makes nothing of it, or the
            first evaluations all failed (with the message of the first).
        LedgerError: the storage cannot be written, or belongs to another search.
    """
    settings = merged(SearchSettings, settings, fields, "driver")
    _check(supernet.space, evaluators)
    evaluators = _comparing(supernet, evaluators)
    goal = Goal.of(evaluators, settings.objectives, settings.constraints)
    _require_paying(supernet.target, [evaluators[i] for i in goal.optimized])
    space = supernet.space

    def score(evaluator: Evaluator, genome: Genome) -> float:
        return evaluator(supernet.subnetwork(space.configuration(genome))).value

    problem = goal.problem(space, score, settings.population, settings.seed, settings.evaluations, sensitivity)
    chosen = make_driver(settings.driver, problem)
    ledger = Ledger(storage, supernet.space, supernet.fingerprint(), evaluators)
    evaluations = min(settings.evaluations, supernet.space.size())
    idle = 0
    plan = MeasurementPlan(supernet, evaluators, settings.time_limit_seconds, goal.optimized)
    opened = (executor or ThisProcess()).open(plan)
    with opened as measuring, progress_bar("Searching", evaluations, enabled=progress) as bar:
        run = _Run(supernet, goal, ledger, measuring)
        while len(run.records) < evaluations and idle < _BATCHES_WITHOUT_NEWS:
            genomes = _asked(chosen, measuring.parallel)
            if not len(genomes):
                break
            new = run.unmeasured(genomes)
            for _ in run.measure(new[: evaluations - len(run.records)]):
                bar.advance(front=run.front_size())
            bar.advance(0, front=run.front_size())
            bar.best(**run.best())
            if len(run.unmeasured(genomes)):
                break  # the budget ends within the batch
            idle = 0 if new else idle + 1
            chosen.tell(genomes, *goal.told(run.scores(genomes), run.reference()))
    return run.result()


def _asked(driver: Driver, parallel: int) -> Genome:
    """The next batch: one answer of `driver`, or `parallel` of them from one that does not wait to be told."""
    batches = [driver.ask()]
    if driver.asynchronous:
        while len(batches) < parallel and len(batches[-1]):
            batches.append(driver.ask())
    return np.concatenate(batches)


class _Run(Generic[S]):
    """The records of this run, in the order in which the driver asked for them."""

    def __init__(self, supernet: Searchable[S], goal: Goal, ledger: Ledger, executor: Executor) -> None:
        self.supernet, self.goal, self.ledger, self.executor = supernet, goal, ledger, executor
        self.records: dict[tuple[int, ...], Record] = {}
        self._rows: dict[tuple[int, ...], Objectives] = {}
        self._front: list[Record] = []  # of those that keep the constraints, as of the last whole batch
        # By genome, in the order asked for and not of arrival: failures are often the first to arrive.
        self._first: dict[tuple[int, ...], Record | None] = {}

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
        missing = []
        for genome in genomes[: _FAILURES_TO_GIVE_UP - len(self._first)]:
            self._first[tuple(genome.tolist())] = None
        for genome in genomes:
            record = self.ledger.get(genome)
            if record is None:
                missing.append(genome)
            else:
                found[record.genome] = record
                self._give_up_if_nothing_works(record)
                yield record
        for measured in self.executor.evaluate(missing, self._front) if missing else ():
            record = self.ledger.append(measured)  # what another process was faster with holds
            found[record.genome] = record
            self._give_up_if_nothing_works(record)
            yield record
        self.records |= {key: found[key] for key in (tuple(genome.tolist()) for genome in genomes)}
        self._front = self._feasible_front()

    def scores(self, genomes: Genome) -> Objectives:
        """All to be minimized, shape (genomes, evaluators); NaN where the evaluation failed."""
        return np.array([self._row(self.records[tuple(genome.tolist())]) for genome in genomes])

    def front_size(self) -> int:
        return len(self._front)

    def best(self) -> dict[str, float]:
        """The best value of each objective that the front has, by name."""
        values = [[record.measurements[i].value for i in self.goal.optimized] for record in self._front]
        found = {}
        for i, of_evaluator in zip(self.goal.optimized, zip(*values, strict=True), strict=False):
            evaluator = self.goal.evaluators[i]
            found[evaluator.name] = min(of_evaluator, key=lambda value: sign_of(evaluator.direction) * value)
        return found

    def reference(self) -> Objectives | None:
        """The largest sub-network's row, shape (evaluators,); None where it was not measured.

        Raises:
            SearchError: that failed, and constraints refer to it.
        """
        record = self.records.get(tuple(self.supernet.space.largest.tolist()))
        if record is not None and record.error:
            self.goal.require_no_reference(record.error)
        return None if record is None or record.error else self._row(record)

    def result(self) -> SearchResult[S]:
        evaluators, optimized = self.goal.evaluators, self.goal.optimized
        objectives = [Objective(e.name, e.direction, e.unit, i in optimized) for i, e in enumerate(evaluators)]
        records = list(self.records.values())
        return SearchResult(self.supernet, objectives, records, self.goal.constraints, self.ledger.storage)

    def _row(self, record: Record) -> Objectives:
        if record.genome not in self._rows:
            values = [m.value for m in record.measurements] if not record.error else np.nan
            self._rows[record.genome] = self.goal.signs * np.array(values)
        return self._rows[record.genome]

    def _feasible_front(self) -> list[Record]:
        records = [record for record in self.records.values() if not record.error]
        if not records:
            return []
        objectives, missed = self.goal.told(np.array([self._row(record) for record in records]), self.reference())
        keeps = np.ones(len(records), dtype=bool) if missed is None else (missed <= 0).all(axis=1)
        positions = np.flatnonzero(keeps)
        return [records[i] for i in positions[non_dominated(objectives[keeps])]]

    def _give_up_if_nothing_works(self, record: Record) -> None:
        if record.genome not in self._first:
            return
        self._first[record.genome] = record
        errors = [r.error for r in self._first.values() if r is not None]
        if len(errors) == _FAILURES_TO_GIVE_UP and all(errors):
            raise SearchError(
                f"the first {_FAILURES_TO_GIVE_UP} evaluations all failed, the first with: {errors[0]}. "
                "Mend the evaluator and use another run folder: failures are kept in the ledger too."
            )


def _comparing(supernet: Searchable[S], evaluators: Sequence[Evaluator]) -> Sequence[Evaluator]:
    """`evaluators`; those that compare and were told no base compare with the largest sub-network."""
    if not any(map(lacks_base, evaluators)):
        return evaluators
    largest = supernet.subnetwork(supernet.space.configuration(supernet.space.largest))
    return compared_with(evaluators, largest.model, largest.tokenizer)


def _require_paying(target: str | None, objectives: Sequence[Evaluator]) -> None:
    """What saves nothing where the sub-networks will run is no objective."""
    if target is None or TARGETS[target].zeros:
        return
    for evaluator in objectives:
        if evaluator.rewards_zeros:
            raise SearchError(
                f"{evaluator.name} rewards zeros, which save nothing in {target}; take one that counts them, such as "
                "ParameterCount() or WeightBytes(), or leave it out of objectives."
            )


def _check(space: SearchSpace, evaluators: Sequence[Evaluator]) -> None:
    for evaluator in evaluators:
        try:
            require_evaluator(evaluator)
        except EvaluatorError as error:
            raise SearchError(str(error)) from None
    names = [e.name for e in evaluators]
    if not names:
        raise SearchError("evaluators is empty; give at least one, such as ParameterCount().")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SearchError(f"two evaluators are named {repeated[0]!r}; give one of them another name=.")
    taken = {*space.names, "error", "feasible", "on_front"}
    taken |= {f"{name}{what}" for name in names for what in ("_stderr", "_n")}
    clash = sorted(taken & set(names))
    if clash:
        raise SearchError(f"an evaluator is named {clash[0]!r}, which is another column's name; rename it.")
    for e in evaluators:
        if e.direction not in ("minimize", "maximize"):
            raise SearchError(f"the direction of {e.name} is {e.direction!r}; choose 'minimize' or 'maximize'.")
    if not len(space):
        raise SearchError("the space has no gene with two values or more; there is nothing to search.")
