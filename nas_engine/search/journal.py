"""Optuna's journal file with a lock that dies with its process, and repair of a line that a power cut tore."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from nas_engine.search.errors import LedgerError


class FlockLock:
    """An exclusive `flock` on a file beside the journal; the kernel releases it when the process ends, however it ends.

    Optuna's own locks are files that a killed process leaves behind. It asks for `acquire` and `release` alone.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def acquire(self) -> bool:
        """Wait for the lock."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Let others have it."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)


def open_journal(path: Path) -> JournalStorage:
    """The journal storage in `path`, made where it does not exist, its folder too.

    Raises:
        LedgerError: the folder cannot be written, or a line other than the last is damaged (the file is left as it is).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FlockLock(path.with_name(f"{path.name}.lock"))
        with path.open("ab"):
            pass
    except OSError as error:
        raise LedgerError(f"the run folder {path.parent} cannot be written: {error}. Choose another one.") from error
    lock.acquire()
    try:
        _repair(path)
    finally:
        lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))  # type: ignore[arg-type]


def _repair(path: Path) -> None:
    """Cut off a last line that was not written to its end."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        try:
            json.loads(line)
        except ValueError as error:
            raise LedgerError(
                f"{path}, line {number} is damaged ({error}); the file was left as it is. Restore it from a backup, "
                "or use another run folder."
            ) from error
    if whole < len(content):
        os.truncate(path, whole)
