"""A limit on how long a piece of code may take, kept by interrupting it."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from nas_engine.errors import TimeLimitError


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise TimeLimitError inside the block once it has run for `seconds`; None sets no limit.

    The main thread is interrupted by a signal, even while it sleeps; any other between two steps of Python code. A
    single call into a library that does not return cannot be interrupted in either; a worker process can be ended.
    """
    if seconds is None:
        yield
    elif threading.current_thread() is threading.main_thread():
        yield from _by_signal(seconds)
    else:
        yield from _by_exception(seconds)


def _by_signal(seconds: float) -> Iterator[None]:
    def expire(number: int, frame: FrameType | None) -> None:
        raise TimeLimitError(f"took longer than the {seconds:g} s allowed")

    before = signal.signal(signal.SIGALRM, expire)
    began = time.monotonic()
    others, _ = signal.setitimer(signal.ITIMER_REAL, seconds)  # somebody else's alarm, which waits for this block
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if others:
            signal.setitimer(signal.ITIMER_REAL, max(1e-6, others - (time.monotonic() - began)))


def _by_exception(seconds: float) -> Iterator[None]:
    identity, over = threading.get_ident(), threading.Lock()

    def expire() -> None:
        if over.acquire(blocking=False):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(identity), ctypes.py_object(TimeLimitError))

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    except TimeLimitError as error:
        raise TimeLimitError(f"took longer than the {seconds:g} s allowed") from error
    finally:
        timer.cancel()
        over.acquire(blocking=False)  # an exception that was not thrown yet is not thrown any more
