"""Optuna's journal in a file of ours: a lock that dies with its process, short lines, and a torn end that is mended.

Any Optuna reads the file as its own; nothing here reads more than the lines that it has not read yet.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from nas_engine.errors import LedgerError


class FlockLock:
    """An exclusive `flock` on a file beside the journal; the kernel releases it when the process ends, however it ends.

    Optuna's own locks are files that a killed process leaves behind. Whoever holds it may take it again.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._depth, self._descriptor = path, 0, -1
        self._threads = threading.RLock()  # flock keeps processes apart, and not the threads of one

    def __enter__(self) -> None:
        self._threads.acquire()
        if self._depth == 0:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            os.close(self._descriptor)
        self._threads.release()


class Journal(BaseJournalBackend):
    """The lines of a journal file, one JSON object each.

    Args:
        path: of the file.
        make: make it and its folder where they do not exist; False is for who only reads, and changes nothing.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, make: bool = True) -> None:
        self._path, self.lock = path, FlockLock(path.with_name(f"{path.name}.lock"))
        self._offsets = [0]  # where line i begins
        if make:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self.lock:
                path.touch()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The operations from line `log_number_from` on; reading changes nothing.

        A last line that is not whole is left out: it belongs to who is writing it, or was, and is then cut off before
        anything is added.

        Raises:
            LedgerError: a line is damaged.
        """
        first = min(log_number_from, len(self._offsets) - 1)
        with self._path.open("rb") as file:
            file.seek(self._offsets[first])
            for number, line in enumerate(file, start=first):
                if not line.endswith(b"\n") and not _is_whole(line):
                    return
                if number + 1 == len(self._offsets) and line.endswith(b"\n"):
                    self._offsets.append(self._offsets[number] + len(line))
                if number >= log_number_from:
                    yield self._operation(line, number + 1)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write operations; they are on disk when this returns.

        Raises:
            OSError: they could not be written; the file then ends as it did before.
        """
        lines = b"".join(_line(_with_short_distributions(log)) for log in logs)
        with self.lock:
            _mend(self._path)
            before = self._path.stat().st_size
            try:
                with self._path.open("ab") as file:
                    file.write(lines)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                os.truncate(self._path, before)
                raise

    def _operation(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            operation = json.loads(line)
            if not isinstance(operation, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            raise LedgerError(_damaged(f"{self._path}, line {number}", error)) from error
        return operation


def open_journal(path: Path, make: bool = True) -> tuple[JournalStorage, FlockLock]:
    """The journal storage in `path`, made where it does not exist, its folder too; and its lock.

    Args:
        path: of the file.
        make: False is for who only reads a file that exists: nothing is made, locked or touched.

    Raises:
        LedgerError: the folder cannot be written, or a line other than the last is damaged (the file is left as it is).
    """
    try:
        journal = Journal(path, make)
    except OSError as error:
        raise LedgerError(f"the run folder {path.parent} cannot be written: {error}. Choose another one.") from error
    try:
        return JournalStorage(journal), journal.lock
    except LedgerError:
        raise
    except OSError as error:
        raise LedgerError(f"the journal {path} cannot be read: {error}.") from error
    except Exception as error:  # whole lines, but not what Optuna wrote: it stumbles on them in its own ways
        raise LedgerError(_damaged(str(path), error)) from error


def _damaged(where: str, error: Exception) -> str:
    return (
        f"{where} is damaged ({type(error).__name__}: {error}); the file was left as it is. "
        "Restore it from a backup, or use another run folder."
    )


def _mend(path: Path) -> None:
    """Cut off a last line that was not written to its end, or end it where only the line break is missing."""
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return
        begin = _last_line(file, size)
        file.seek(begin)
        if _is_whole(file.read()):
            file.write(b"\n")
        else:
            file.truncate(begin)


def _is_whole(line: bytes) -> bool:
    """Whether a last line is; a part of a JSON object is never one itself."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _last_line(file: Any, size: int, block: int = 1 << 16) -> int:
    """Where the last line of an open binary file begins."""
    end = size
    while end > 0:
        begin = max(0, end - block)
        file.seek(begin)
        found: int = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _line(operation: Mapping[str, Any]) -> bytes:
    return json.dumps(operation, separators=(",", ":")).encode() + b"\n"


def _with_short_distributions(operation: dict[str, Any]) -> dict[str, Any]:
    """The operation with its distributions in the short form that Optuna reads as well.

    Written out, the distributions of a hundred genes are most of a trial.
    """
    if "distributions" not in operation:
        return operation
    return operation | {"distributions": {name: _shortened(text) for name, text in operation["distributions"].items()}}


@lru_cache(maxsize=4096)
def _shortened(distribution: str) -> str:
    data = json.loads(distribution)
    if data.get("name") != "CategoricalDistribution":
        return distribution
    choices: Iterable[Any] = data["attributes"]["choices"]
    return json.dumps({"type": "categorical", "choices": choices}, separators=(",", ":"))
