"""Measured latency of what would be deployed: the extracted sub-network, alone on its device.

The super-network itself is never timed. Times hold for the device, the threads and the precision they were taken with.
"""

from __future__ import annotations

import copy
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from evaluators.checks import require_at_least, require_one_of
from evaluators.protocol import Direction, Measurement, Subnetwork
from evaluators.timing import Step, Timing, median_stderr, take_turns

Phase = Literal["prefill", "decode"]


@dataclass(frozen=True)
class Latency:
    """Median time of a forward pass of the extracted sub-network, in milliseconds.

    Args:
        batch: sequences at once.
        tokens: length of each; in the decode phase, how many are cached.
        phase: ``prefill`` reads `tokens` tokens into a cache and computes the last one's logits, as generation starts;
            ``decode`` computes one token more after `tokens` cached ones.
        repeats: timed runs; the value is their median.
        warmup: runs before, not timed.
        device: where to measure, such as ``cpu`` or ``cuda``.
        name: column name of the score.

    Raises:
        ValueError: an argument out of range, or a device that this machine does not have.
    """

    batch: int = 1
    tokens: int = 128
    phase: Phase = "prefill"
    repeats: int = 10
    warmup: int = 2
    device: str = "cpu"
    name: str = "latency"
    direction: Direction = "minimize"
    unit: str = "ms"
    alone: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _require_workload(self.batch, self.tokens, self.phase, self.repeats, self.warmup)
        _require_device(self.device)

    def settings(self) -> Mapping[str, Any]:
        """The workload, the device by name, and the threads that torch uses."""
        return {
            "batch": self.batch,
            "tokens": self.tokens,
            "phase": self.phase,
            "repeats": self.repeats,
            "warmup": self.warmup,
            "device": device_name(torch.device(self.device)),
            "threads": torch.get_num_threads(),
        }

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Extract `subnet` and time it."""
        timing = self.time(subnet)
        return Measurement(value=1e3 * timing.median, stderr=1e3 * timing.stderr, n=self.repeats)

    def time(self, subnet: Subnetwork) -> Timing:
        """Every single time, from which median and quartiles follow.

        Raises:
            ValueError: the workload is longer than the model can read.
        """
        device = torch.device(self.device)
        # Moving a model moves its parameters in place: shared ones would leave the super-network's device.
        model = subnet.extract(share_embeddings=subnet.model.device.type == device.type)
        if model.device.type != device.type:
            model.to(device)  # type: ignore[arg-type]  # transformers wraps it untyped
        return _time([model], self.batch, self.tokens, self.phase, self.repeats, self.warmup)[0]


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
        return tuple(statistics.median(ratios) for ratios in self._ratios())

    @property
    def speedup_stderrs(self) -> tuple[float, ...]:
        """The standard error of each speed-up."""
        return tuple(median_stderr(ratios) for ratios in self._ratios())

    def _ratios(self) -> list[list[float]]:
        reference = self.timings[0].seconds
        return [[r / s for r, s in zip(reference, timing.seconds, strict=True)] for timing in self.timings]


def compare_latency(
    models: Sequence[PreTrainedModel],
    batch: int = 1,
    tokens: int = 128,
    phase: Phase = "prefill",
    repeats: int = 20,
    warmup: int = 3,
) -> LatencyComparison:
    """Time `models` in turns (A B C, A B C, …), where they are; the first is the reference.

    Args:
        models: on one device, in evaluation mode.
        batch: sequences at once.
        tokens: length of each; in the decode phase, how many are cached.
        phase: as of `Latency`.
        repeats: timed rounds.
        warmup: rounds before, not timed.

    Raises:
        ValueError: an argument out of range, no model, models on different devices or in training mode, or a workload
            longer than a model can read.
    """
    _require_workload(batch, tokens, phase, repeats, warmup)
    if not models:
        raise ValueError("models is empty; give at least one, the reference first.")
    devices = sorted({str(model.device) for model in models})
    if len(devices) > 1:
        raise ValueError(f"models are on {' and '.join(devices)}; move them to one device to compare them.")
    return LatencyComparison(tuple(_time(models, batch, tokens, phase, repeats, warmup)))


def device_name(device: torch.device) -> str:
    """The device as its maker calls it, such as ``AMD EPYC 7B13`` or ``NVIDIA H100 80GB HBM3``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


@torch.inference_mode()
def _time(
    models: Sequence[PreTrainedModel], batch: int, tokens: int, phase: Phase, repeats: int, warmup: int
) -> list[Timing]:
    positions = tokens + (phase == "decode")
    for model in models:
        most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if most is not None and positions > most:
            raise ValueError(f"tokens is {tokens}, but the model reads {most} positions at most; give fewer tokens.")
        if model.training:
            raise ValueError("a model is in training mode, which is not how it is deployed; call model.eval() first.")
    step_of: Callable[..., Step] = _prefill if phase == "prefill" else _decode
    steps = [step_of(model, _input_ids(model, batch, tokens)) for model in models]
    return take_turns(steps, repeats, warmup, _synchronizer(models[0].device))


def _prefill(model: PreTrainedModel, input_ids: Tensor) -> Step:
    run = partial(model, input_ids=input_ids, use_cache=True, logits_to_keep=1)
    return lambda: run


def _decode(model: PreTrainedModel, input_ids: Tensor) -> Step:
    filled = DynamicCache(config=model.config)
    model(input_ids=input_ids, past_key_values=filled, use_cache=True, logits_to_keep=1)
    token = input_ids[:, -1:]
    return lambda: partial(model, input_ids=token, past_key_values=_branch(filled), use_cache=True, logits_to_keep=1)


def _branch(cache: Cache) -> Cache:
    """The same cached tokens; what is added to the branch leaves `cache` as it is, for layers grow by concatenation."""
    branch = copy.copy(cache)
    branch.layers = [copy.copy(layer) for layer in cache.layers]
    return branch


def _input_ids(model: PreTrainedModel, batch: int, tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    return torch.randint(vocabulary, (batch, tokens), generator=generator).to(model.device)


def _synchronizer(device: torch.device) -> Callable[[], object]:
    return (lambda: None) if device.type == "cpu" else partial(torch.accelerator.synchronize, device)


def _require_workload(batch: int, tokens: int, phase: str, repeats: int, warmup: int) -> None:
    require_at_least(1, batch=batch, tokens=tokens)
    require_at_least(2, repeats=repeats)
    require_at_least(0, warmup=warmup)
    require_one_of(get_args(Phase), phase=phase)


def _require_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ValueError(f"device is {device!r}, which cannot be used here ({reason}); choose another.") from error
