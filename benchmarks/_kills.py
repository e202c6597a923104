"""What `benchmarks.kills` needs: processes that are killed at random moments, and what a run folder holds."""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from tqdm import tqdm

from nas_engine.ledger.ledger import read_ledger
from nas_engine.ledger.storage import JOURNAL
from nas_engine.training.checkpoint import FILE

Contents = Mapping[str, str]
"""What is complete on disk: its name, and text that differs where it does."""

_VOLATILE = {"seconds", "processor_seconds", "latency_ms", "speedup", "speedup_stderr"}
_MARK = "NAS_ENGINE_KILLS"  # in the environment of all that this process starts
_DYING_SECONDS = 10.0


class RunError(RuntimeError):
    """A run ended with an error of its own."""


def start(work: Callable[[], object], log: Path) -> int:
    """A child process that does `work` in a copy of this one, quietly; its id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ[_MARK] = str(os.getppid())
        # tqdm shares its lock with forked processes: one killed while it holds it would keep it from all others.
        tqdm.set_lock(threading.RLock())
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        work()
        code = 0
    except BaseException:  # this copy must not go on with what its parent does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def killed(work: Callable[[], object], seconds: float, log: Path) -> bool:
    """Whether `work` was still going on after `seconds`, and so was killed.

    Raises:
        RunError: it failed.
    """
    child = start(work, log)
    descriptor = os.pidfd_open(child)
    select.select([descriptor], [], [], seconds)
    os.close(descriptor)
    os.kill(child, signal.SIGKILL)  # one that has ended stays until it is waited for
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise RunError(log.read_text(encoding="utf-8"))
    return code != 0


def finish(work: Callable[[], object], log: Path) -> float:
    """Do `work` uninterrupted in a child process; its seconds.

    Raises:
        RunError: it failed.
    """
    begin = time.monotonic()
    if killed(work, 3600.0, log):
        raise RunError("a run took more than an hour")
    return time.monotonic() - begin


def moment(source: random.Random, duration: float, kills: int) -> float:
    """When to kill a run of `duration` seconds that was killed so often: uniformly, and later from time to time.

    A machine that became slower would otherwise never let it end.
    """
    return source.uniform(0.0, duration * (1.1 + 0.1 * kills))


def orphans() -> int:
    """Processes that killed children of this one have started and that do not end with them."""
    end = time.monotonic() + _DYING_SECONDS
    while found := _marked():
        if time.monotonic() > end:
            return found
        time.sleep(0.05)
    return 0


def _marked() -> int:
    found = 0
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and process.name != str(os.getpid()):
            try:
                environment = (process / "environ").read_bytes()
            except OSError:
                continue
            found += f"{_MARK}={os.getpid()}".encode() in environment.split(b"\0")
    return found


def tree(folder: Path) -> str:
    """A digest of all files of a folder, names and contents, hidden ones too."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        digest.update(f"{file.relative_to(folder)}\0".encode())
        if file.is_file():
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def progress(folder: Path) -> Contents:
    """What a run has completed so far: steps, records, measured numbers, files and folders that are saved at once.

    Whatever cannot be read is not there.
    """
    found: dict[str, str] = {}
    for file in sorted(folder.rglob("*")):
        relative = file.relative_to(folder)
        if not file.is_file() or any(part.startswith(".unfinished-") for part in relative.parts):
            continue
        try:
            found |= {f"{relative}{part}": text for part, text in _parts(file).items()}
        except Exception:  # unreadable, whatever the reader says to it
            continue
    return found


def result(folder: Path) -> Contents:
    """What a run has left at its end, weights of checkpoints too, and everything that should not be there."""
    left = {str(file.relative_to(folder)): "there" for file in folder.rglob("*")}
    weights = {str(file): _weights(file) for file in sorted(folder.rglob(FILE))}
    return left | progress(folder) | {str(Path(name).relative_to(folder)): text for name, text in weights.items()}


def _parts(file: Path) -> dict[str, str]:
    if file.name == FILE:
        with safe_open(file, framework="pt") as opened:
            losses = json.loads(opened.metadata()["losses"])
        return {f" step {step}": repr(loss) for step, loss in enumerate(losses)}
    if file.name == JOURNAL:
        return {f" {record.genome}": repr(record) for record in read_ledger(file.parent).records}
    if file.name == "finalists.json":
        return {f" {key}": repr(value) for key, value in json.loads(file.read_bytes()).items()}
    if file.name == "summary.json":
        return {"": json.dumps(_lasting(json.loads(file.read_bytes())))}
    return {"": hashlib.sha256(file.read_bytes()).hexdigest()}


def _weights(file: Path) -> str:
    digest = hashlib.sha256()
    with safe_open(file, framework="np") as opened:
        for name in sorted(opened.keys()):
            digest.update(name.encode() + opened.get_tensor(name).tobytes())
    return digest.hexdigest()


def _lasting(data: Any) -> Any:
    """JSON data without what a clock measured."""
    if isinstance(data, dict):
        return {key: _lasting(value) for key, value in data.items() if key not in _VOLATILE}
    return [_lasting(value) for value in data] if isinstance(data, list) else data
