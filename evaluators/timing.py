"""Timing of steps that take turns, so that a drift of the machine meets all of them alike. Knows no model."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

Step = Callable[[], Callable[[], object]]
"""Prepares one run, untimed, and gives what is to be timed."""


@dataclass(frozen=True)
class Timing:
    """The times of one step, in the order in which they were taken.

    Args:
        seconds: one for each repeat, at least two.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """In seconds."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third, in seconds."""
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return first, third

    @property
    def stderr(self) -> float:
        """Standard error of the median, in seconds; see `median_stderr`."""
        return median_stderr(self.seconds)


def median_stderr(values: Sequence[float]) -> float:
    """Standard error of the median, ``√(π/2) · IQR / 1.349 / √n``: the spread is taken from the quartiles, which a few
    interrupted repeats do not move (McGill, Tukey and Larsen, 1978).
    """
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return math.sqrt(math.pi / 2) * (third - first) / 1.349 / math.sqrt(len(values))


def take_turns(
    steps: Sequence[Step],
    repeats: int,
    warmup: int,
    synchronize: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """Time every step `repeats` times, one after the other in each round (A B C, A B C, …).

    Args:
        steps: what to time.
        repeats: timed rounds.
        warmup: rounds before, not timed.
        synchronize: waits until the device has finished what it was given.
        clock: gives seconds.
    """
    seconds: list[list[float]] = [[] for _ in steps]
    with _no_garbage_collection():
        for turn in range(warmup + repeats):
            for i, prepare in enumerate(steps):
                run = prepare()
                synchronize()
                start = clock()
                run()
                synchronize()
                if turn >= warmup:
                    seconds[i].append(clock() - start)
    return [Timing(tuple(values)) for values in seconds]


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
