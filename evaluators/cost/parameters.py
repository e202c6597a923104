"""The parameters of a sub-network: what its files hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from evaluators.cost.stored import stored_parameters, weights_of
from evaluators.protocol import Direction, EvaluatorDefaults, Measurement, Subnetwork


@dataclass(frozen=True)
class ParameterCount(EvaluatorDefaults):
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


@dataclass(frozen=True)
class NonZeroParameters(EvaluatorDefaults):
    """Parameters of the deployed model that are not zero, by the sparsity that its operators report.

    Zeros count where weights are multiplied: in projections, adapters that stay unmerged, and the output head. Those in
    norms, biases and an embedding apart from the head, which no format stores sparsely, count as parameters.

    Args:
        name: column name of the score.
    """

    name: str = "nonzero_parameters"
    direction: Direction = "minimize"
    unit: str = ""

    computed: ClassVar[bool] = True
    rewards_zeros: ClassVar[bool] = True

    def settings(self) -> Mapping[str, Any]:
        """Nothing changes the score."""
        return {}

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Count what is not zero in `subnet`."""
        weights = weights_of(subnet)
        zeros = sum(op.zeros for op in weights)
        return Measurement(stored_parameters(subnet, weights) - zeros)
