"""Processes that tests start, kill and wait for, forked from one that has imported what they need.

Importing torch and transformers takes a new interpreter longer than most tests take.
"""

import multiprocessing
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
