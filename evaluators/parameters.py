"""The parameters of a sub-network: what its files hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from evaluators.protocol import Direction, Measurement, Subnetwork


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of the extracted model, tied ones once.

    Args:
        merged: adapters are merged into the weights; False counts the active adapters besides.
        name: column name of the score.
    """

    merged: bool = True
    name: str = "parameters"
    direction: Direction = "minimize"
    unit: str = ""
    computed: ClassVar[bool] = True

    def settings(self) -> Mapping[str, Any]:
        """Whether adapters are merged."""
        return {"merged": self.merged}

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Count the parameters of `subnet`."""
        return Measurement(subnet.parameter_count(merged=self.merged))
