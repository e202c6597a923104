"""Latency on paper: every operator takes as long as its arithmetic or its traffic, whichever is longer.

The roofline model (Williams, Waterman and Patterson, CACM 2009) with peak figures is a lower bound: real kernels reach
a part of the peak. It ranks sub-networks on hardware that is not at hand; where it is, measure with `Latency`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from evaluators.cost.device_sheet import Device, as_device
from evaluators.cost.phases import operators_of, require_workload
from evaluators.latency.workload import Phase
from evaluators.operators.operator import Operator
from evaluators.protocol import Direction, EvaluatorDefaults, Measurement, Subnetwork


@dataclass(frozen=True)
class Roofline(EvaluatorDefaults):
    """The roofline time of one forward pass on a device, in milliseconds.

    Zeros are multiplied and moved as any number, as dense kernels do, unless the device `skips_zeros`.

    Args:
        device: a `Device`, the name of one that comes with this package (`device_names`), or the path of a JSON file.
        batch: sequences at once.
        tokens: length of each; in the decode phase, how many are cached.
        phase: ``prefill`` or ``decode``, as of `Latency`.
        name: column name of the score.

    Raises:
        ValueError: an argument out of range, or a device that is not known or badly described.
    """

    device: str | Path | Device
    batch: int = 1
    tokens: int = 128
    phase: Phase = "prefill"
    name: str = "roofline"
    direction: Direction = "minimize"
    unit: str = "ms"

    computed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_workload(self.batch, self.tokens, self.phase)
        object.__setattr__(self, "device", as_device(self.device))

    @property
    def rewards_zeros(self) -> bool:
        """Whether zeros lower the score."""
        return isinstance(self.device, Device) and self.device.skips_zeros

    def settings(self) -> Mapping[str, Any]:
        """The workload and the figures of the device."""
        assert isinstance(self.device, Device)
        return {
            "device": self.device.figures(),
            "batch": self.batch,
            "tokens": self.tokens,
            "phase": self.phase,
        }

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Add up the operators of `subnet`.

        Raises:
            DeviceError: the device has no rate for the model's bit width.
        """
        assert isinstance(self.device, Device)
        operators = operators_of(subnet, self.batch, self.tokens, self.phase)
        return Measurement(1e3 * sum(roofline_seconds(op, self.device) for op in operators))


def roofline_seconds(operator: Operator, device: Device) -> float:
    """The longer of compute time and memory time of `operator` on `device`, and its overhead, in seconds.

    Raises:
        DeviceError: `device` has no rate for the operator's `compute_bits`.
    """
    macs, weight_bytes = operator.macs, operator.weight_bytes
    if device.skips_zeros:
        macs, weight_bytes = operator.nonzero_macs, operator.sparse_weight_bytes
    compute = 2 * macs / device.operations_per_second(operator.compute_bits)
    memory = (weight_bytes + operator.activation_bytes) / device.bytes_per_second
    return max(compute, memory) + 1e-6 * device.operator_overhead_us
