"""Timing of steps that take turns, so that a drift of the machine meets all of them alike. Knows no model."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

Step = Callable[[], Callable[[], object]]
"""Prepares one run, untimed, and gives what is to be timed."""

Stopwatch = Callable[[Callable[[], object]], float]
"""Runs what it is given and tells how many seconds it took."""


@dataclass(frozen=True)
class Timing:
    """The times of one step, in the order in which they were taken.

    Args:
        seconds: one for each repeat, at least two.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median, in seconds."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third, in seconds."""
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return first, third

    @property
    def spread(self) -> float:
        """The distance of the quartiles as a fraction of the median."""
        first, third = self.quartiles
        return (third - first) / self.median

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


def ratios(timing: Timing, reference: Timing) -> tuple[float, ...]:
    """`timing` over `reference`, round by round: both were timed in turns, so that the machine's drift cancels."""
    return tuple(s / r for s, r in zip(timing.seconds, reference.seconds, strict=True))


def host_stopwatch(
    synchronize: Callable[[], object] = lambda: None, clock: Callable[[], float] = time.perf_counter
) -> Stopwatch:
    """A stopwatch by the host's clock.

    Args:
        synchronize: waits until the device has finished what it was given.
        clock: gives seconds.
    """

    def seconds(run: Callable[[], object]) -> float:
        synchronize()
        start = clock()
        run()
        synchronize()
        return clock() - start

    return seconds


def cuda_stopwatch(device: torch.device) -> Stopwatch:
    """A stopwatch by events on the device's own stream, which leaves out how long the host takes to notice the end."""

    def seconds(run: Callable[[], object]) -> float:
        with torch.cuda.device(device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            run()
            end.record()
            end.synchronize()
            return 1e-3 * float(start.elapsed_time(end))

    return seconds


def stopwatch_of(device: torch.device) -> Stopwatch:
    """Events on CUDA, else the host's clock."""
    if device.type == "cuda":
        return cuda_stopwatch(device)
    if device.type == "cpu":
        return host_stopwatch()
    return host_stopwatch(lambda: torch.accelerator.synchronize(device))


def take_turns(
    steps: Sequence[Step],
    repeats: int,
    warmup: int,
    clock: Callable[[], float] = time.perf_counter,
    stopwatch: Stopwatch | None = None,
) -> list[Timing]:
    """Time every step `repeats` times, one after the other in each round (A B C, A B C, …).

    Args:
        steps: what to time.
        repeats: timed rounds.
        warmup: rounds before, not timed.
        clock: gives seconds.
        stopwatch: times a run; the host's, by `clock`, where it is None.
    """
    seconds_of = stopwatch or host_stopwatch(clock=clock)
    seconds: list[list[float]] = [[] for _ in steps]
    with _no_garbage_collection():
        for turn in range(warmup + repeats):
            for i, prepare in enumerate(steps):
                taken = seconds_of(prepare())
                if turn >= warmup:
                    seconds[i].append(taken)
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
