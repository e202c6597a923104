"""One worker process of a pool: how it starts, how it is talked to, and how it ends with whoever started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nas_engine.execution.worker import Event, Ready, Refused, Shipment, Task, Worker
from nas_engine.execution.worker_executor import Lost
from nas_engine.libraries import libraries_in

_DYING_SECONDS = 2.0  # between the end of a process's pipe and its own
# What ends with the search begins before imports that take seconds.
_START = """
import json, os, signal, sys, threading

def end_with(lifeline):
    os.read(lifeline, 1)
    os.killpg(os.getpid(), signal.SIGKILL)

threading.Thread(target=end_with, args=(int(sys.argv[3]),), daemon=True).start()
sys.path[:] = json.loads(sys.argv[1])
from nas_engine.execution.pool_process import run_worker
run_worker(int(sys.argv[2]), int(sys.argv[3]))
"""


class PoolProcess:
    """A fresh interpreter that measures, and this end of its pipe.

    The user's main module is not imported there, so that scripts need no guard.

    Args:
        threads: CPU threads that libraries may use there.
    """

    def __init__(self, threads: int) -> None:
        self.connection, theirs = Pipe()
        # The kernel closes the lifeline where this process is killed, and the worker then ends itself.
        lifeline, ours = os.pipe()
        self._lifeline = open(ours, "wb", buffering=0)  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path), str(theirs.fileno()), str(lifeline)],
                pass_fds=(theirs.fileno(), lifeline),
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
                start_new_session=True,  # Ctrl-C is for the search, which ends its workers itself
            )
        finally:
            theirs.close()
            os.close(lifeline)

    @property
    def pid(self) -> int:
        """Its number among the processes."""
        return self._process.pid

    @property
    def gone(self) -> bool:
        """Whether it has ended and everything that it said was received."""
        return self._process.poll() is not None and not self.connection.poll()

    def load(self, shipment: Shipment, folder: Path) -> None:
        """Let it begin, with the super-network whose files are in `folder`."""
        self._say((shipment, folder))

    def send(self, task: Task) -> None:
        """As `WorkerHandle` says."""
        self._say(task)

    def received(self) -> Event | Lost:
        """The next that it says; waits for it."""
        try:
            event: Event = self.connection.recv()  # from a process that this one started
        except (EOFError, OSError):
            return self.lost()
        return event

    def lost(self) -> Lost:
        """How it ended; waits a moment for that."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_DYING_SECONDS)
        code = self._process.poll()
        if code is None:
            return Lost("it closed its pipe")
        if code == -signal.SIGKILL:
            return Lost("it was killed (SIGKILL), as happens where memory runs out")
        return Lost(f"it ended by {signal.Signals(-code).name}" if code < 0 else f"it exited with code {code}")

    def leave(self) -> None:
        """Let it end by itself once it has nothing to do."""
        self.connection.close()

    def end(self, seconds: float = 0.0) -> None:
        """End it after `seconds`, with all that it has started."""
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self.connection.close()
            self._lifeline.close()

    def _say(self, message: Any) -> None:
        with suppress(OSError):  # it has ended, which `received` reports
            self.connection.send(message)


def run_worker(descriptor: int, lifeline: int) -> None:
    """What a worker process runs, until the other end of its pipe is closed.

    Args:
        descriptor: of its end of the pipe.
        lifeline: of a pipe that ends when the search's process does.
    """
    for inherited in (descriptor, lifeline):
        os.set_inheritable(inherited, False)
    with libraries_in(None), Connection(descriptor) as connection, suppress(EOFError, BrokenPipeError):
        shipment, folder = connection.recv()
        try:
            worker: Worker[Any] = Worker(shipment, folder)
        except Exception as error:  # whatever loading raises, the search has to say it
            connection.send(Refused(f"a worker could not start: {type(error).__name__}: {error}"))
            return
        connection.send(Ready())
        while True:
            for event in worker.measure(connection.recv()):
                connection.send(event)
