"""Where a ledger is kept: a journal in a run folder, a database, or memory; opened, and shown without its password."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning, OptunaError, StorageInternalError
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from evaluators import Direction
from nas_engine.errors import LedgerError
from nas_engine.ledger.identity import Identity, checked_identity, identity_differences
from nas_engine.ledger.journal import open_journal

JOURNAL = "ledger.log"
IDENTITY = "nas_engine"
STORAGE_ERRORS = (ValueError, OSError, ImportError, SQLAlchemyError, OptunaError)
_TRIES = 4  # of two processes that make a database's tables at once one fails, and finds them made the next time
_SECONDS_BETWEEN_TRIES = 0.3
Storage = str | Path | None


def open_storage(
    storage: Storage, make: bool = True
) -> tuple[optuna.storages.BaseStorage | str | None, AbstractContextManager[None]]:
    """What Optuna opens, and a lock under which nobody else writes to it (a database has its own)."""
    if storage is None:
        return None, nullcontext()
    if _is_url(storage):
        return str(storage), nullcontext()
    return open_journal(Path(storage) / JOURNAL, make)


def joined_study(
    opened: optuna.storages.BaseStorage | str | None,
    name: str,
    identity: Identity,
    directions: Sequence[Direction],
    where: Storage,
) -> optuna.Study:
    """The study of a ledger, made where there is none, its identity written or compared.

    Raises:
        LedgerError: it is another search's, or cannot be opened.
    """
    try:
        study = _patiently_opened(opened, name, directions)
        found = study.user_attrs.get(IDENTITY)
        if found is None:
            study.set_user_attr(IDENTITY, identity)
        elif differing := identity_differences(checked_identity(found, without_password(where)), identity):
            raise LedgerError(
                f"the ledger in {without_password(where)} was written with {'; '.join(differing)}. "
                "Use another run folder, or go back to what it was written with."
            )
        _name_objectives(study, identity["order"])
    except LedgerError:
        raise
    except STORAGE_ERRORS as error:
        raise LedgerError(f"the ledger {without_password(where)} cannot be opened: {error}") from error
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


def is_missing(storage: Storage) -> bool:
    """Whether there is nothing to read, so that reading does not make it."""
    if storage is None:
        return True
    if not _is_url(storage):
        return not (Path(storage) / JOURNAL).is_file()
    url = make_url(str(storage))
    return url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file()


def without_password(storage: Storage) -> str:
    """The storage as it may be printed: without a password."""
    if not _is_url(storage):
        return str(storage)
    try:
        return make_url(str(storage)).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return str(storage)


def studies_of(storage: Storage, prefix: str) -> list[str]:
    """The names of the studies of a ledger that begin with `prefix`, in the alphabet's order; none where there is none.

    Raises:
        LedgerError: it cannot be read.
    """
    if is_missing(storage) or (not _is_url(storage) and not _mentions(Path(str(storage)) / JOURNAL, prefix)):
        return []
    opened, _ = open_storage(storage, make=False)
    assert opened is not None, "what is in memory alone is missing, as said above"
    try:
        return sorted(name for name in optuna.get_all_study_names(opened) if name.startswith(prefix))
    except STORAGE_ERRORS as error:
        raise LedgerError(f"the ledger {without_password(storage)} cannot be read: {error}") from error


def _mentions(journal: Path, text: str) -> bool:
    """Whether it stands in a file, which is far sooner said than what Optuna makes of the file."""
    try:
        return text.encode() in journal.read_bytes()
    except OSError as error:
        raise LedgerError(f"the journal {journal} cannot be read: {error}.") from error
