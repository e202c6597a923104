"""Who may use a device: evaluations compute side by side, a timing runs alone. Knows no evaluator.

Each device has a lock file in the temporary directory, for all threads and processes of a user. Evaluations that only
compute hold it shared, a timing holds it exclusively. The locks are `flock`s, which the kernel releases when their
process ends, however it ends. Processes that have different temporary directories do not see each other.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from search_spaces import NasEngineError

_POLL_SECONDS = 0.02


class BusyError(NasEngineError, RuntimeError):
    """Something else computes on the device, so that times taken now would be wrong."""


@contextmanager
def computing(device: str | torch.device = "cpu") -> Iterator[None]:
    """Around work that shares the device: waits until no timing runs or is about to.

    Nothing happens where the thread is inside `computing` or `alone` already. Where no lock file can be had, the work
    goes on without one: it is the timing that has to know.

    Args:
        device: such as ``cpu`` or ``cuda:0``.
    """
    name = _name(device)
    held = _held_by_this_thread()
    if name in held:
        yield
        return
    try:
        lock = _Lock(name)
    except OSError:
        yield
        return
    with lock:
        with lock.gate:  # a timing that waits has closed it
            lock.gate.take(exclusive=False)
            lock.take(exclusive=False)
        held[name] = lock
        try:
            yield
        finally:
            held.pop(name, None)


@contextmanager
def alone(device: str | torch.device = "cpu", wait_seconds: float = 60.0) -> Iterator[None]:
    """Around a timing: nothing else that asks here computes on the device meanwhile.

    Evaluations that have begun are waited for; new ones wait until the timing is over. Nothing happens where the
    thread is inside `alone` already; inside `computing` it gives up its share for the time.

    Args:
        device: such as ``cpu`` or ``cuda:0``.
        wait_seconds: how long to wait for others.

    Raises:
        BusyError: others still compute or time on the device after `wait_seconds`.
        OSError: the temporary directory cannot hold a lock file.
    """
    name = _name(device)
    held = _held_by_this_thread()
    if name in held and held[name].exclusive:
        yield
        return
    try:
        lock = _Lock(name)
    except OSError as error:
        raise OSError(
            f"no lock file can be used in {_folder()} ({error}), so nobody knows whether other evaluations run on "
            f"{device}; set the environment variable TMPDIR to a local folder that can be written."
        ) from error
    with _without_own_share(name), lock, lock.gate:
        deadline = time.monotonic() + wait_seconds
        for part in (lock.gate, lock):
            if not part.take(exclusive=True, deadline=deadline):
                raise BusyError(_busy(device, wait_seconds, part))
        held[name] = lock
        try:
            yield
        finally:
            held.pop(name, None)


class _File:
    """An open lock file; every object has a lock of its own, also beside others of the same thread.

    Raises:
        OSError: it cannot be opened, is somebody else's, or its file system knows no locks.
    """

    def __init__(self, path: Path) -> None:
        self.exclusive = False
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        _open_files.add(self)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        except OSError:
            self.close()
            raise

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.release()
        self.close()

    def take(self, exclusive: bool, deadline: float | None = None) -> bool:
        """Wait for the lock until `deadline` on the monotonic clock; True once it is held."""
        assert self._descriptor is not None
        operation = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        while True:
            try:
                fcntl.flock(self._descriptor, operation | (0 if deadline is None else fcntl.LOCK_NB))
            except BlockingIOError:
                assert deadline is not None
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_POLL_SECONDS)
            else:
                self.exclusive = exclusive
                return True

    def release(self) -> None:
        """Let others have it."""
        if self._descriptor is not None:
            # Closing would not do where a child process has inherited the file.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file, which leaves the lock to whoever inherited it."""
        _open_files.discard(self)
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    @property
    def holders(self) -> list[int]:
        """The processes that hold a lock on the file, as far as Linux tells."""
        assert self._descriptor is not None
        inode = os.fstat(self._descriptor).st_ino
        try:
            lines = Path("/proc/locks").read_text(encoding="ascii")
        except OSError:
            return []
        # 1: FLOCK  ADVISORY  WRITE 4711 08:01:131072 0 EOF; waiting ones have an arrow after the number.
        held = re.findall(rf"^\d+: FLOCK +\S+ +\S+ +(\d+) \S+:{inode} ", lines, re.MULTILINE)
        return sorted({int(process) for process in held} - {0})


class _Lock(_File):
    """The lock of a device, and before it a gate: a timing that waits closes it, so that it gets its turn."""

    def __init__(self, name: str) -> None:
        folder = _folder()
        super().__init__(folder / f"{name}.lock")
        try:
            self.gate = _File(folder / f"{name}.gate")
        except OSError:
            self.close()
            raise


_open_files: set[_File] = set()
_threads = threading.local()


def _held_by_this_thread() -> dict[str, _Lock]:
    if not hasattr(_threads, "held"):
        _threads.held = {}
    held: dict[str, _Lock] = _threads.held
    return held


def _forget_locks() -> None:
    """In a forked child: the locks are its parent's, and must not outlive it in here."""
    for file in list(_open_files):
        file.close()
    _held_by_this_thread().clear()


os.register_at_fork(after_in_child=_forget_locks)


@contextmanager
def _without_own_share(name: str) -> Iterator[None]:
    held = _held_by_this_thread()
    share = held.pop(name, None)
    if share is None:
        yield
        return
    share.release()
    try:
        yield
    finally:
        share.take(exclusive=False)
        held[name] = share


def _busy(device: str | torch.device, wait_seconds: float, file: _File) -> str:
    others = file.holders
    who = f" (process {', '.join(map(str, others))})" if others else ""
    return (
        f"other evaluations{who} still run on {device} after {wait_seconds:g} s of waiting, and would falsify "
        "the times. Let them finish, wait longer (wait_seconds), or predict latency without a clock, by a LatencyTable."
    )


def _folder() -> Path:
    return Path(tempfile.gettempdir())


def _name(device: str | torch.device) -> str:
    """The name of the device's lock, equal for all processes whatever devices they are allowed to see."""
    given = torch.device(device)
    name = given.type
    if given.type == "cuda":
        properties = torch.cuda.get_device_properties(given)
        name = f"cuda-{getattr(properties, 'uuid', given.index or 0)}"
    elif given.index:
        name = f"{given.type}-{given.index}"
    return f"nas-engine-{os.getuid()}-{name}"
