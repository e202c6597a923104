"""Every measurement of a search, kept in an Optuna storage: what was paid for once is never paid for again.

Several processes may write to one ledger. Of two records of a genome the one that was written first counts, for all.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import ExperimentalWarning, OptunaError, StorageInternalError
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from evaluators import Direction, Evaluator, Measurement
from evaluators.documents import checked
from nas_engine.errors import LedgerError
from nas_engine.ledger.identity import Identity, checked_identity, differences, identity_of
from nas_engine.ledger.journal import open_journal
from search_spaces import Genome, SearchSpace

SEARCH_STUDY = "nas-engine"
JOURNAL = "ledger.log"
_IDENTITY = "nas_engine"
_STORAGE_ERRORS = (ValueError, OSError, ImportError, SQLAlchemyError, OptunaError)
_TRIES = 4  # of two processes that make a database's tables at once one fails, and finds them made the next time
_SECONDS_BETWEEN_TRIES = 0.3
Storage = str | Path | None


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
        opened, lock = _open(storage)
        with lock:  # so that of two processes that start at once one describes the ledger and the other compares
            self._study = _joined(opened, study, identity, [e.direction for e in evaluators], storage)
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
        except _STORAGE_ERRORS as error:
            raise LedgerError(f"the ledger {_shown(self.storage)} cannot be written: {error}") from error
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
        except _STORAGE_ERRORS as error:
            raise LedgerError(f"the ledger {_shown(self.storage)} cannot be read: {error}") from error
        for trial in trials[self._read :]:
            record = _record(trial, self._space, self._objectives, self.storage)
            self._records.setdefault(record.genome, record)
        self._read = len(trials)


def read_ledger(storage: Storage, study: str = SEARCH_STUDY) -> LedgerContents:
    """What is in a ledger, whatever it was written with.

    Raises:
        LedgerError: there is none, or it cannot be read.
    """
    if _is_missing(storage):
        raise LedgerError(f"there is no ledger in {_shown(storage)}; give the storage= that a search was run with.")
    opened, _ = _open(storage, make=False)
    assert opened is not None, "what is in memory alone is missing, as said above"
    try:
        loaded = optuna.load_study(storage=opened, study_name=study)
        identity = checked_identity(loaded.user_attrs[_IDENTITY], _shown(storage))
        trials = loaded.get_trials(deepcopy=False)
    except KeyError as error:
        raise LedgerError(f"{_shown(storage)} holds no search of this project.") from error
    except LedgerError:
        raise
    except _STORAGE_ERRORS as error:
        raise LedgerError(f"the ledger {_shown(storage)} cannot be read: {error}") from error
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


def studies_of(storage: Storage, prefix: str) -> list[str]:
    """The names of the studies of a ledger that begin with `prefix`, in the alphabet's order; none where there is none.

    Raises:
        LedgerError: it cannot be read.
    """
    if _is_missing(storage) or (not _is_url(storage) and not _mentions(Path(str(storage)) / JOURNAL, prefix)):
        return []
    opened, _ = _open(storage, make=False)
    assert opened is not None, "what is in memory alone is missing, as said above"
    try:
        return sorted(name for name in optuna.get_all_study_names(opened) if name.startswith(prefix))
    except _STORAGE_ERRORS as error:
        raise LedgerError(f"the ledger {_shown(storage)} cannot be read: {error}") from error


def _mentions(journal: Path, text: str) -> bool:
    """Whether it stands in a file, which is far sooner said than what Optuna makes of the file."""
    try:
        return text.encode() in journal.read_bytes()
    except OSError as error:
        raise LedgerError(f"the journal {journal} cannot be read: {error}.") from error


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
            f"trial {trial.number} of the ledger {_shown(where)} is none of a search "
            f"({type(error).__name__}: {error}); it was left as it is. Use another run folder."
        ) from error


def _open(
    storage: Storage, make: bool = True
) -> tuple[optuna.storages.BaseStorage | str | None, AbstractContextManager[None]]:
    """What Optuna opens, and a lock under which nobody else writes to it (a database has its own)."""
    if storage is None:
        return None, nullcontext()
    if _is_url(storage):
        return str(storage), nullcontext()
    return open_journal(Path(storage) / JOURNAL, make)


def _joined(
    opened: optuna.storages.BaseStorage | str | None,
    name: str,
    identity: Identity,
    directions: Sequence[Direction],
    where: Storage,
) -> optuna.Study:
    try:
        study = _patiently_opened(opened, name, directions)
        found = study.user_attrs.get(_IDENTITY)
        if found is None:
            study.set_user_attr(_IDENTITY, identity)
        elif differing := differences(checked_identity(found, _shown(where)), identity):
            raise LedgerError(
                f"the ledger in {_shown(where)} was written with {'; '.join(differing)}. "
                "Use another run folder, or go back to what it was written with."
            )
        _name_objectives(study, identity["order"])
    except LedgerError:
        raise
    except _STORAGE_ERRORS as error:
        raise LedgerError(f"the ledger {_shown(where)} cannot be opened: {error}") from error
    return study


def _patiently_opened(
    opened: optuna.storages.BaseStorage | str | None, name: str, directions: Sequence[Direction]
) -> optuna.Study:
    for _ in range(_TRIES - 1):
        try:
            return _study(opened, name, directions)
        except (DBAPIError, StorageInternalError):
            time.sleep(_SECONDS_BETWEEN_TRIES)
    return _study(opened, name, directions)


def _study(
    opened: optuna.storages.BaseStorage | str | None, name: str, directions: Sequence[Direction]
) -> optuna.Study:
    if opened is not None:
        try:
            return optuna.load_study(storage=opened, study_name=name)
        except KeyError:
            pass  # a new ledger
    return optuna.create_study(storage=opened, study_name=name, directions=list(directions), load_if_exists=True)


def _name_objectives(study: optuna.Study, names: Sequence[str]) -> None:
    """So that Optuna's dashboard and figures show names instead of numbers."""
    if study.metric_names != list(names):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(names))


def _is_url(storage: Storage) -> bool:
    return "://" in str(storage)


def _is_missing(storage: Storage) -> bool:
    """Whether there is nothing to read, so that reading does not make it."""
    if storage is None:
        return True
    if not _is_url(storage):
        return not (Path(storage) / JOURNAL).is_file()
    url = make_url(str(storage))
    return url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file()


def _shown(storage: Storage) -> str:
    """The storage as it may be printed: without a password."""
    if not _is_url(storage):
        return str(storage)
    try:
        return make_url(str(storage)).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return str(storage)
