"""What a sub-network costs on the Abacus, an invented accelerator: energy as a function, latency as a class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from evaluators import EvaluatorDefaults, Measurement, Subnetwork, cost_model
from evaluators.protocol import Direction

PJ_PER_MAC = 0.5


@cost_model(unit="uJ", direction="minimize")
def abacus_energy(subnet: Subnetwork) -> float:
    """Arithmetic alone: its memory runs on daylight."""
    return 1e-6 * PJ_PER_MAC * sum(op.macs for op in subnet.operators(batch=1, tokens=16))


@dataclass(frozen=True)
class AbacusLatency(EvaluatorDefaults):
    """Every matrix product fills a square array of multipliers, tile by tile.

    Args:
        array: rows and columns of the array.
        name: column name of the score.
    """

    array: int = 16
    name: str = "abacus_latency"
    direction: Direction = "minimize"
    unit: str = "cycles"

    computed: ClassVar[bool] = True

    def settings(self) -> Mapping[str, Any]:
        """The size of the array."""
        return {"array": self.array}

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """One cycle for every tile of every product and every row of the activation."""
        operators = subnet.operators(batch=1, tokens=16)
        cycles = sum(op.count * op.m * -(-op.k // self.array) * -(-op.n // self.array) for op in operators)
        return Measurement(cycles)
