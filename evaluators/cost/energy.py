"""Energy on paper: so much a multiply-accumulate, so much a byte moved, so much while time passes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from evaluators.cost.device_sheet import Device, as_device
from evaluators.cost.phases import operators_of, require_workload
from evaluators.cost.roofline import roofline_seconds
from evaluators.latency.workload import Phase
from evaluators.operators.operator import Operator
from evaluators.protocol import Direction, EvaluatorDefaults, Measurement, Subnetwork


@dataclass(frozen=True)
class EnergyCosts:
    """What work costs.

    Args:
        pj_per_mac: picojoules of a multiply-accumulate, by the bits of its wider operand.
        pj_per_byte: picojoules of a byte moved to or from main memory.
        idle_watts: drawn all the time; needs a device, whose roofline gives the time.
        source: where the figures are from.

    Raises:
        ValueError: no cost of a multiply-accumulate, or a negative one.
    """

    pj_per_mac: Mapping[int, float]
    pj_per_byte: float
    idle_watts: float = 0.0
    source: str = ""

    def __post_init__(self) -> None:
        if not self.pj_per_mac:
            raise ValueError("pj_per_mac is empty; give picojoules by bit width, such as {16: 1.5}.")
        costs = {f"pj_per_mac[{bits}]": cost for bits, cost in self.pj_per_mac.items()}
        for what, cost in (costs | {"pj_per_byte": self.pj_per_byte, "idle_watts": self.idle_watts}).items():
            if not math.isfinite(cost) or cost < 0:
                raise ValueError(f"{what} is {cost!r}; give a number from 0 on.")

    def joules_per_mac(self, bits: int) -> float:
        """Of elements of `bits`: the cost of the narrowest width that holds them.

        Raises:
            ValueError: there is none so wide.
        """
        widths = [width for width in self.pj_per_mac if width >= bits]
        if not widths:
            raise ValueError(
                f"pj_per_mac has costs for {', '.join(map(str, sorted(self.pj_per_mac)))} bits, none for {bits}; "
                "add one, or score the model in a narrower dtype."
            )
        return 1e-12 * self.pj_per_mac[min(widths)]


HOROWITZ_45NM = EnergyCosts(
    # A multiplication and an addition: fp32 3.7 + 0.9, fp16 1.1 + 0.4, int8 0.2 + 0.1 (added up in 32 bits).
    pj_per_mac={32: 4.6, 16: 1.5, 8: 0.3},
    pj_per_byte=1300 / 8,  # 64 bits from DRAM take 1.3 to 2.6 nJ; the lower end
    source="M. Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014: 45 nm at 0.9 V",
)
"""Of a 45 nm process: absolute figures of today's are smaller, what arithmetic costs beside traffic is similar."""


@dataclass(frozen=True)
class Energy(EvaluatorDefaults):
    """The energy of one forward pass, in millijoules, linear in operations, bytes and time.

    Zeros of a sparse weight cost what any number costs; only idle watts know a device that skips them.

    Args:
        costs: what work costs.
        batch: sequences at once.
        tokens: length of each; in the decode phase, how many are cached.
        phase: ``prefill`` or ``decode``, as of `Latency`.
        device: gives the time in which idle watts are drawn; as of `Roofline`.
        name: column name of the score.

    Raises:
        ValueError: an argument out of range, a device that is not known, or idle watts without a device.
    """

    costs: EnergyCosts = HOROWITZ_45NM
    batch: int = 1
    tokens: int = 128
    phase: Phase = "prefill"
    device: str | Path | Device | None = None
    name: str = "energy"
    direction: Direction = "minimize"
    unit: str = "mJ"

    computed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_workload(self.batch, self.tokens, self.phase)
        if self.device is not None:
            object.__setattr__(self, "device", as_device(self.device))
        elif self.costs.idle_watts:
            raise ValueError(
                f"idle_watts is {self.costs.idle_watts}, but without a device no time is known; give device=."
            )

    @property
    def rewards_zeros(self) -> bool:
        """Whether zeros lower the score."""
        return bool(self.costs.idle_watts) and isinstance(self.device, Device) and self.device.skips_zeros

    def settings(self) -> Mapping[str, Any]:
        """The workload, the costs, and the device where time matters."""
        return {
            "pj_per_mac": {str(bits): cost for bits, cost in self.costs.pj_per_mac.items()},
            "pj_per_byte": self.costs.pj_per_byte,
            "idle_watts": self.costs.idle_watts,
            "batch": self.batch,
            "tokens": self.tokens,
            "phase": self.phase,
            "device": self.device.figures() if isinstance(self.device, Device) and self.costs.idle_watts else None,
        }

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Add up the operators of `subnet`.

        Raises:
            ValueError: no cost or no rate is known for the model's bit width.
        """
        operators = operators_of(subnet, self.batch, self.tokens, self.phase)
        joules = sum(self._joules(op) for op in operators)
        if self.costs.idle_watts and isinstance(self.device, Device):
            joules += self.costs.idle_watts * sum(roofline_seconds(op, self.device) for op in operators)
        return Measurement(1e3 * joules)

    def _joules(self, operator: Operator) -> float:
        return (
            operator.macs * self.costs.joules_per_mac(operator.compute_bits)
            + operator.bytes * 1e-12 * self.costs.pj_per_byte
        )
