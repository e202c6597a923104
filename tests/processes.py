"""Processes that tests start, kill and wait for, forked from one that has imported what they need.

Importing torch and transformers takes a new interpreter longer than most tests take.
"""

import multiprocessing
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["nas_engine", "tests.ordered", "tests.supernets"])


def started(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A process that runs a function of a module, and ends with the tests."""
    process = CONTEXT.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def free_port() -> int:
    """A port on which processes may meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def together(target: Callable[..., None], *arguments: Any) -> None:
    """Run `target` in two processes, each given its rank first, until both have ended."""
    processes = [started(target, rank, *arguments) for rank in range(2)]
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
