"""Measured latency of what would be deployed: the extracted sub-network, alone on its device.

The super-network itself is never timed. Times hold for the device, the threads and the precision they were taken with.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel

from evaluators.checks import require_at_least
from evaluators.latency.comparison import WAIT_SECONDS, LatencyComparison, require_repeats, time_in_turns
from evaluators.latency.exclusive import alone
from evaluators.latency.machine import cpu_threads, device_name, dtype_named, require_device
from evaluators.latency.runtime import Runtime, load_runtime
from evaluators.latency.timing import Timing, median_stderr, ratios
from evaluators.latency.workload import Phase, Workload, require_cuda
from evaluators.protocol import Direction, EvaluatorDefaults, Measurement, Subnetwork
from search_spaces.fingerprint import fingerprint_of


@dataclass(frozen=True)
class LatencyReport:
    """What was measured of one sub-network.

    Args:
        timing: its times.
        reference: those of the reference, taken in turns with it; None where there is none.
    """

    timing: Timing
    reference: Timing | None = None

    @property
    def median_ms(self) -> float:
        """The median, in milliseconds."""
        return 1e3 * self.timing.median

    @property
    def median_stderr_ms(self) -> float:
        """The standard error of the median, in milliseconds."""
        return 1e3 * self.timing.stderr

    @property
    def quartiles_ms(self) -> tuple[float, float]:
        """The first and the third quartile, in milliseconds."""
        first, third = self.timing.quartiles
        return 1e3 * first, 1e3 * third

    @property
    def spread(self) -> float:
        """The distance of the quartiles as a fraction of the median."""
        return self.timing.spread

    @property
    def ratio(self) -> float | None:
        """The time over the reference's: the median over rounds of the ratio within a round, in which the machine's
        drift cancels. None without a reference.
        """
        return None if self.reference is None else statistics.median(ratios(self.timing, self.reference))

    @property
    def ratio_stderr(self) -> float | None:
        """The standard error of `ratio`."""
        return None if self.reference is None else median_stderr(ratios(self.timing, self.reference))


@dataclass(frozen=True)
class Latency(EvaluatorDefaults):
    """Median time of a forward pass of the extracted sub-network: in milliseconds, or as a ratio to a reference.

    Waits for other evaluations on the device to end, and keeps new ones from beginning meanwhile.

    Args:
        batch: sequences at once.
        tokens: length of each; in the decode phase, how many are cached.
        phase: ``prefill`` or ``decode``, see `Workload`.
        repeats: timed runs; the value is their median.
        warmup: runs before, not timed.
        device: where to measure, such as ``cpu`` or ``cuda``.
        threads: CPU threads while measuring; None leaves torch's setting.
        dtype: what the extracted model is cast to, such as ``bfloat16``; None leaves it as it is. With a `runtime`,
            what weights are stored as, in its words, such as ``q8_0``.
        runtime: where it is timed instead of PyTorch, such as ``llama.cpp``, in a process of its own; see
            `evaluators.latency.runtime`.
        cuda_graphs: capture the pass once and replay it; see `Workload`.
        reference: a sub-network, usually ``supernet.largest``, or an extracted model; it takes turns with what is
            measured, and the value is the ratio to it, which repeats far better than milliseconds. It is extracted
            once and kept.
        wait_seconds: how long to wait for other evaluations on the device to end.
        name: column name of the score.

    Raises:
        ValueError: an argument out of range, a device that this machine does not have, an unknown dtype, CUDA graphs
            on another device, a reference model of another device or dtype, or a runtime that is not installed or
            cannot time this.
    """

    batch: int = 1
    tokens: int = 128
    phase: Phase = "prefill"
    repeats: int = 10
    warmup: int = 2
    device: str = "cpu"
    threads: int | None = None
    dtype: str | None = None
    cuda_graphs: bool = False
    runtime: str | None = None
    reference: Subnetwork | PreTrainedModel | None = None
    wait_seconds: float = WAIT_SECONDS
    name: str = "latency"
    direction: Direction = "minimize"

    alone: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _ = self.workload
        require_repeats(self.repeats, self.warmup)
        if self.threads is not None:
            require_at_least(1, threads=self.threads)
        if self._runtime is not None:
            self._runtime.require(self.workload, self.device, self.dtype)
            if isinstance(self.reference, PreTrainedModel):
                raise ValueError(f"reference is a model, but {self.runtime} takes sub-networks; give supernet.largest.")
            return
        if self.dtype is not None:
            dtype_named(self.dtype)
        require_device(self.device)
        if self.cuda_graphs:
            require_cuda(torch.device(self.device))
        if isinstance(self.reference, PreTrainedModel):
            self._require_deployed(self.reference)

    @property
    def unit(self) -> str:
        """``ms``, or ``× reference``."""
        return "ms" if self.reference is None else "× reference"

    @property
    def workload(self) -> Workload:
        """What is timed."""
        return Workload(self.batch, self.tokens, self.phase, self.cuda_graphs)

    def settings(self) -> Mapping[str, Any]:
        """The workload, the device by name, the threads that torch uses, the dtype, and the reference's sizes."""
        return {
            "batch": self.batch,
            "tokens": self.tokens,
            "phase": self.phase,
            "repeats": self.repeats,
            "warmup": self.warmup,
            "device": device_name(torch.device(self.device)),
            "threads": self._threads,
            "dtype": self.dtype or "as extracted",
            "cuda_graphs": self.cuda_graphs,
            "reference": None if self._kept_reference is None else self._fingerprint(self._kept_reference),
            **({} if self._runtime is None else {"runtime": self.runtime, **self._runtime.settings()}),
        }

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Extract `subnet` and time it."""
        report = self.report(subnet)
        if report.ratio is not None and report.ratio_stderr is not None:
            return Measurement(report.ratio, report.ratio_stderr, self.repeats)
        return Measurement(report.median_ms, report.median_stderr_ms, self.repeats)

    def time(self, subnet: Subnetwork) -> Timing:
        """Every single time, as of `report`."""
        return self.report(subnet).timing

    def report(self, subnet: Subnetwork) -> LatencyReport:
        """Median, quartiles, spread, and the ratio to the reference.

        Raises:
            ValueError: the workload is longer than the model can read.
            BusyError: other evaluations still run on the device after `wait_seconds`.
        """
        with alone(self.device, self.wait_seconds):
            models = [self.deployed(subnet)]
            if self._kept_reference is not None:
                models.insert(0, self._kept_reference)
            *reference, timing = self.time_models(models)
        return LatencyReport(timing, *reference)

    def compare(self, subnets: Sequence[Subnetwork]) -> LatencyComparison:
        """Time `subnets` in turns, the first being the reference.

        Raises:
            ValueError, BusyError: as of `report`.
        """
        with alone(self.device, self.wait_seconds):
            return LatencyComparison(tuple(self.time_models([self.deployed(subnet) for subnet in subnets])))

    def deployed(self, subnet: Subnetwork) -> Any:
        """`subnet` extracted, on the device and of the dtype that are measured; with a runtime, what that loads."""
        if self._runtime is not None:
            return self._runtime.deployed(subnet, self.dtype)
        device = torch.device(self.device)
        dtype = subnet.model.dtype if self.dtype is None else dtype_named(self.dtype)
        # Parameters are moved and cast in place: shared ones would leave the super-network's device or dtype.
        stays = _same(subnet.model.device, device) and subnet.model.dtype == dtype
        model = subnet.extract(share_embeddings=stays)
        if not stays:
            model.to(device=device, dtype=dtype)  # type: ignore[call-arg]  # transformers wraps it untyped
        return model

    def time_models(self, models: list[Any]) -> list[Timing]:
        """Time models that are `deployed`, in turns. The caller is `alone` on the device."""
        if self._runtime is not None:
            return self._runtime.time(models, self.workload, self.repeats, self.warmup, self._threads)
        with cpu_threads(self.threads):
            return time_in_turns(models, self.workload, self.repeats, self.warmup)

    @property
    def _threads(self) -> int:
        return torch.get_num_threads() if self.threads is None else self.threads

    @cached_property
    def _runtime(self) -> Runtime | None:
        return None if self.runtime is None else load_runtime(self.runtime)

    def _fingerprint(self, deployed: Any) -> str:
        return _sizes_fingerprint(deployed) if self._runtime is None else self._runtime.fingerprint(deployed)

    @cached_property
    def _kept_reference(self) -> Any:
        if self.reference is None or isinstance(self.reference, PreTrainedModel):
            return self.reference
        return self.deployed(self.reference)

    def _require_deployed(self, model: PreTrainedModel) -> None:
        if not _same(model.device, torch.device(self.device)):
            raise ValueError(f"reference is on {model.device}, but device is {self.device!r}; move it there first.")
        if self.dtype is not None and model.dtype != dtype_named(self.dtype):
            raise ValueError(f"reference is of {model.dtype}, but dtype is {self.dtype!r}; cast it first.")


def _same(device: torch.device, wanted: torch.device) -> bool:
    return device.type == wanted.type and wanted.index in (None, device.index)


def _sizes_fingerprint(model: PreTrainedModel) -> str:
    shapes = [(name, list(parameter.shape), str(parameter.dtype)) for name, parameter in model.named_parameters()]
    return fingerprint_of(shapes)
