"""A user's own function of a sub-network as an evaluator: energy, cost, the latency of an accelerator on paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from evaluators.checks import require_one_of
from evaluators.functions.function import FunctionEvaluator, require_arguments
from evaluators.protocol import Direction, Measurement, Subnetwork

CostFunction = Callable[[Subnetwork], "float | Measurement"]


class CostModel(FunctionEvaluator):
    """An evaluator that calls a function of a sub-network; made by `cost_model`."""

    decorator = "cost_model"

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """What the function says of `subnet`.

        Raises:
            TypeError: it returned neither a number nor a Measurement.
        """
        return self._measurement(self.function(subnet))


def cost_model(
    unit: str = "",
    direction: Direction = "minimize",
    name: str | None = None,
    version: str | None = None,
    computed: bool = True,
) -> Callable[[CostFunction], CostModel]:
    """Make an evaluator of a function from a sub-network to a number, or to a Measurement.

    ``@cost_model(unit="mJ", direction="minimize")`` above the function is all that is needed.

    A ledger tells one version of the function from another by a hash of its source, and of the numbers, texts, lists
    and functions that it takes from its own module or an enclosing function. It does not see other objects, files, or
    what imported functions do: where those change, give and change `version`.

    Args:
        unit: of the number.
        direction: whether smaller or larger is better.
        name: column name of the score; the function's own by default.
        version: stands for all that the score depends on, instead of the hash.
        computed: it follows from sizes, so that drivers may ask for thousands; False where it runs or times a model.

    Raises:
        ValueError: an unknown direction, or a callable object without the name and version that it needs.
        TypeError: used without its parentheses.
    """
    require_arguments("cost_model", unit)
    require_one_of(get_args(Direction), direction=direction)
    return lambda function: CostModel(function, name, unit, direction, version, computed)
