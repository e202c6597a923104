"""Every measurement of a search, kept in an Optuna storage: what was paid for once is never paid for again.

Several processes may write to one ledger. Of two records of a genome the one that was written first counts, for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from evaluators import Direction, Evaluator, Measurement
from evaluators.documents import checked
from nas_engine.errors import LedgerError
from nas_engine.ledger.identity import checked_identity, identity_of
from nas_engine.ledger.storage import (
    IDENTITY,
    STORAGE_ERRORS,
    Storage,
    is_missing,
    joined_study,
    open_storage,
    without_password,
)
from search_spaces import Genome, SearchSpace

SEARCH_STUDY = "nas-engine"


@dataclass(frozen=True)
class Record:
    """One evaluated genome.

    Args:
        genome: its indices.
        measurements: one an evaluator, in their order; empty where the evaluation failed.
        error: why it failed; empty where it did not.
    """

    genome: tuple[int, ...]
    measurements: tuple[Measurement, ...]
    error: str = ""


@dataclass(frozen=True)
class LedgerContents:
    """What a ledger holds, as it is read without the super-network and the evaluators that it was written with.

    Args:
        space: the genomes' space.
        model: the super-network's fingerprint.
        objectives: name, direction and unit of each evaluator, in the order of a record's measurements.
        records: one a genome, in the order in which they were written.
    """

    space: SearchSpace
    model: str
    objectives: tuple[tuple[str, Direction, str], ...]
    records: tuple[Record, ...]


class Ledger:
    """The records of one space, one super-network and one set of evaluators.

    Args:
        storage: a folder, which gets the journal file `ledger.log`; a database URL; or None, to keep records in memory.
        space: the genomes' space.
        model: the super-network's fingerprint.
        evaluators: what measures.
        study: name of the Optuna study; one storage may hold several.

    Raises:
        LedgerError: the storage cannot be opened, is damaged, or holds records taken with another space, model or
            evaluator settings (the differences are named).
    """

    def __init__(
        self,
        storage: Storage,
        space: SearchSpace,
        model: str,
        evaluators: Sequence[Evaluator],
        study: str = SEARCH_STUDY,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.storage = storage
        self._space, self._objectives = space, len(evaluators)
        self._distributions = {gene.name: CategoricalDistribution(gene.values) for gene in space.genes}
        identity = identity_of(space, model, evaluators)
        opened, lock = open_storage(storage)
        with lock:  # so that of two processes that start at once one describes the ledger and the other compares
            self._study = joined_study(opened, study, identity, [e.direction for e in evaluators], storage)
        self._records: dict[tuple[int, ...], Record] = {}
        self._read = 0  # trials of the study that were looked at
        self.refresh()

    def __len__(self) -> int:
        return len(self._records)

    @property
    def records(self) -> list[Record]:
        """One a genome, in the order in which they were written, as far as they were read."""
        return list(self._records.values())

    def get(self, genome: Genome) -> Record | None:
        """The record of `genome`, also where another process has written it by now; or None."""
        key = tuple(genome.tolist())
        if key not in self._records:
            self.refresh()
        return self._records.get(key)

    def append(self, record: Record) -> Record:
        """Keep `record`; it is on disk when this returns.

        Returns:
            The record that counts: another one of the same genome where a process was faster.

        Raises:
            LedgerError: the storage cannot be written.
        """
        attributes: dict[str, Any] = {
            "genome": list(record.genome),
            "stderr": [m.stderr for m in record.measurements],
            "n": [m.n for m in record.measurements],
            "outcomes": [m.outcomes for m in record.measurements],
            "error": record.error,
        }
        trial = create_trial(
            state=TrialState.FAIL if record.error else TrialState.COMPLETE,
            values=None if record.error else [m.value for m in record.measurements],
            params=self._space.configuration(record.genome),
            distributions=self._distributions,  # type: ignore[arg-type]
            user_attrs=attributes,
        )
        try:
            self._study.add_trial(trial)
        except STORAGE_ERRORS as error:
            raise LedgerError(f"the ledger {without_password(self.storage)} cannot be written: {error}") from error
        self.refresh()
        return self._records[record.genome]

    def refresh(self) -> None:
        """Read what other processes have written since; only that is read.

        Raises:
            LedgerError: the storage cannot be read.
        """
        try:
            trials = self._study.get_trials(deepcopy=False)
        except LedgerError:
            raise
        except STORAGE_ERRORS as error:
            raise LedgerError(f"the ledger {without_password(self.storage)} cannot be read: {error}") from error
        for trial in trials[self._read :]:
            record = _record(trial, self._space, self._objectives, self.storage)
            self._records.setdefault(record.genome, record)
        self._read = len(trials)


def read_ledger(storage: Storage, study: str = SEARCH_STUDY) -> LedgerContents:
    """What is in a ledger, whatever it was written with.

    Raises:
        LedgerError: there is none, or it cannot be read.
    """
    if is_missing(storage):
        raise LedgerError(
            f"there is no ledger in {without_password(storage)}; give the storage= that a search was run with."
        )
    opened, _ = open_storage(storage, make=False)
    assert opened is not None, "what is in memory alone is missing, as said above"
    try:
        loaded = optuna.load_study(storage=opened, study_name=study)
        identity = checked_identity(loaded.user_attrs[IDENTITY], without_password(storage))
        trials = loaded.get_trials(deepcopy=False)
    except KeyError as error:
        raise LedgerError(f"{without_password(storage)} holds no search of this project.") from error
    except LedgerError:
        raise
    except STORAGE_ERRORS as error:
        raise LedgerError(f"the ledger {without_password(storage)} cannot be read: {error}") from error
    space = SearchSpace.from_json(identity["space"])
    described = [(name, identity["evaluators"][name]) for name in identity["order"]]
    records: dict[tuple[int, ...], Record] = {}
    for trial in trials:
        record = _record(trial, space, len(described), storage)
        records.setdefault(record.genome, record)
    return LedgerContents(
        space,
        identity["model"],
        tuple((name, e["direction"], e["unit"]) for name, e in described),
        tuple(records.values()),
    )


@dataclass(frozen=True)
class _Attributes:
    """What a trial holds beside its values and parameters."""

    genome: list[int]
    stderr: list[float]
    n: list[int]
    outcomes: list[str]
    error: str


@dataclass(frozen=True)
class _Trial:
    values: list[float]
    user_attrs: _Attributes


def _record(trial: FrozenTrial, space: SearchSpace, objectives: int, where: Storage) -> Record:
    try:
        data = {"values": trial.values or [], "user_attrs": trial.user_attrs}
        found = checked(data, _Trial, LedgerError, "it holds something else")
        values, attributes = found.values, found.user_attrs
        if space.configuration(attributes.genome) != trial.params:
            raise ValueError("its genome is not that of its parameters")
        if len(values) != (0 if attributes.error else objectives):
            raise ValueError(f"it has {len(values)} values and the error {attributes.error!r}")
        measured = zip(values, attributes.stderr, attributes.n, attributes.outcomes, strict=True)
        measurements = tuple(Measurement(*entry) for entry in measured)
        return Record(tuple(attributes.genome), measurements, attributes.error)
    except (OverflowError, ValueError) as error:
        raise LedgerError(
            f"trial {trial.number} of the ledger {without_password(where)} is none of a search "
            f"({type(error).__name__}: {error}); it was left as it is. Use another run folder."
        ) from error
