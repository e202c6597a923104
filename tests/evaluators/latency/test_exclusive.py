"""Timings run alone on their device: between threads, between processes, and after a process was killed."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from evaluators.latency.exclusive import BusyError, alone, computing

HOLD = """
import time
from evaluators.latency.exclusive import {0}
with {0}():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch) -> None:
    """Locks apart from those of other work on this machine."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


@contextmanager
def in_thread(context):
    """Hold `context` in another thread."""
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with context:
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(60)
    try:
        yield
    finally:
        leave.set()
        thread.join()


def in_process(context: str) -> subprocess.Popen:
    """Hold `computing` or `alone` in another process."""
    process = subprocess.Popen([sys.executable, "-c", HOLD.format(context)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_evaluations_compute_side_by_side() -> None:
    with in_thread(computing()), computing():
        pass


@pytest.mark.parametrize("context", [computing, alone])
def test_a_timing_is_refused_while_another_thread_uses_the_device(context) -> None:
    message = "cpu after 0 s.*wait_seconds.*LatencyTable"
    with in_thread(context()), pytest.raises(BusyError, match=message), alone(wait_seconds=0):
        pass
    with alone(wait_seconds=0):
        pass


def test_other_devices_are_free() -> None:
    with in_thread(alone("meta")), alone("cpu", wait_seconds=0):
        pass


def test_a_timing_is_refused_while_another_process_computes_and_the_lock_dies_with_it() -> None:
    process = in_process("computing")
    try:
        message = f"process {process.pid}" if sys.platform == "linux" else "other"
        with pytest.raises(BusyError, match=message), alone(wait_seconds=0):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with alone(wait_seconds=0):
        pass


def test_a_thread_times_after_within_and_before_its_own_computing() -> None:
    for _ in range(2):
        with computing(), computing():
            with alone(wait_seconds=0), alone(wait_seconds=0), computing():
                assert is_busy()
            with in_thread(computing()):
                assert is_busy()
        with alone(wait_seconds=0):
            pass
    assert not is_busy()


def test_the_share_is_back_after_a_timing_within_computing() -> None:
    with computing():
        with alone(wait_seconds=0):
            pass
        assert is_busy()


def test_a_timing_that_fails_leaves_the_device_free() -> None:
    with pytest.raises(ZeroDivisionError), alone(wait_seconds=0):
        raise ZeroDivisionError
    assert not is_busy()


def test_new_evaluations_wait_for_a_timing_that_waits() -> None:
    order: list[str] = []

    def time_alone() -> None:
        with alone(wait_seconds=60):
            order.append("timed")

    def compute() -> None:
        with computing():
            order.append("computed")

    with computing():
        timing = threading.Thread(target=time_alone)
        timing.start()
        while not is_gate_closed():
            time.sleep(0.001)
        other = threading.Thread(target=compute)
        other.start()
        other.join(0.1)
        assert order == []
    timing.join()
    other.join()
    assert order == ["timed", "computed"]


@pytest.mark.skipif(sys.platform != "linux", reason="open files are listed in /proc")
def test_a_forked_child_does_not_keep_its_parents_lock() -> None:
    with computing():
        child = os.fork()
        if not child:
            os._exit(len([link for link in open_files() if "nas-engine" in link]))
        assert [link for link in open_files() if "nas-engine" in link]
        assert os.waitpid(child, 0)[1] == 0
        assert is_busy()


def test_a_folder_without_locks_stops_timings_with_advice_and_nothing_else(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with computing():
        pass
    with pytest.raises(OSError, match="missing.*TMPDIR"), alone():
        pass


def open_files() -> list[str]:
    links = [f"/proc/self/fd/{descriptor}" for descriptor in os.listdir("/proc/self/fd")]
    return [os.readlink(link) for link in links if os.path.lexists(link)]


def is_busy() -> bool:
    """Whether a timing in another thread would be refused."""
    refused = []

    def attempt() -> None:
        try:
            with alone(wait_seconds=0):
                pass
        except BusyError:
            refused.append(True)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return bool(refused)


def is_gate_closed() -> bool:
    for path in Path(tempfile.gettempdir()).glob("*.gate"):
        with path.open() as gate:
            try:
                fcntl.flock(gate, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False
