"""Extracted models timed in turns on their device, with nothing else of ours running there."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from evaluators.checks import require_at_least
from evaluators.latency.exclusive import alone
from evaluators.latency.timing import Timing, median_stderr, ratios, stopwatch_of, take_turns
from evaluators.latency.workload import Phase, Workload

WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class LatencyComparison:
    """Several models timed in turns, the first being the reference.

    Args:
        timings: of each model; times with the same index come from the same round.
    """

    timings: tuple[Timing, ...]

    @property
    def medians(self) -> tuple[float, ...]:
        """The median of each model, in milliseconds."""
        return tuple(1e3 * timing.median for timing in self.timings)

    @property
    def stderrs(self) -> tuple[float, ...]:
        """The standard error of each median, in milliseconds."""
        return tuple(1e3 * timing.stderr for timing in self.timings)

    @property
    def speedups(self) -> tuple[float, ...]:
        """How many times as fast as the first model each one is: the median over rounds of the ratio within a round, in
        which the machine's drift cancels.
        """
        return tuple(statistics.median(ratios(self.timings[0], timing)) for timing in self.timings)

    @property
    def speedup_stderrs(self) -> tuple[float, ...]:
        """The standard error of each speed-up."""
        return tuple(median_stderr(ratios(self.timings[0], timing)) for timing in self.timings)


def compare_latency(
    models: Sequence[PreTrainedModel],
    batch: int = 1,
    tokens: int = 128,
    phase: Phase = "prefill",
    repeats: int = 20,
    warmup: int = 3,
    cuda_graphs: bool = False,
    wait_seconds: float = WAIT_SECONDS,
) -> LatencyComparison:
    """Time `models` in turns (A B C, A B C, …), where they are; the first is the reference.

    Args:
        models: on one device, in evaluation mode.
        batch: sequences at once.
        tokens: length of each; in the decode phase, how many are cached.
        phase: as of `Workload`.
        repeats: timed rounds.
        warmup: rounds before, not timed.
        cuda_graphs: as of `Workload`.
        wait_seconds: how long to wait for other evaluations on the device to end.

    Raises:
        ValueError: an argument out of range, no model, models on different devices or in training mode, or a workload
            longer than a model can read.
        BusyError: other evaluations still run after `wait_seconds`.
    """
    workload = Workload(batch, tokens, phase, cuda_graphs)
    require_repeats(repeats, warmup)
    if not models:
        raise ValueError("models is empty; give at least one, the reference first.")
    devices = sorted({str(model.device) for model in models})
    if len(devices) > 1:
        raise ValueError(f"models are on {' and '.join(devices)}; move them to one device to compare them.")
    with alone(models[0].device, wait_seconds):
        return LatencyComparison(tuple(time_in_turns(models, workload, repeats, warmup)))


@torch.inference_mode()
def time_in_turns(models: Sequence[PreTrainedModel], workload: Workload, repeats: int, warmup: int) -> list[Timing]:
    """Time `workload` on each of `models`, in turns; the caller keeps others off the device."""
    steps = [workload.step(model) for model in models]
    return take_turns(steps, repeats, warmup, stopwatch=stopwatch_of(models[0].device))


def require_repeats(repeats: int, warmup: int) -> None:
    """Check that there are times enough for a spread.

    Raises:
        ValueError: there are not.
    """
    require_at_least(2, repeats=repeats)
    require_at_least(0, warmup=warmup)
