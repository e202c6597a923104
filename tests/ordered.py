"""A problem of ordered genes with known values, for tests of the engine; stands where a super-network would."""

from dataclasses import dataclass

import numpy as np

from evaluators import EvaluatorDefaults, Measurement
from nas_engine.execution.measuring import SearchableDefaults
from search_spaces import Choice, Configuration, SearchSpace


def space_of(genes: int = 8, values: int = 4) -> SearchSpace:
    choices = tuple(range(8, 8 * (values + 1), 8))
    return SearchSpace.of(
        [Choice(f"layers.{i}.width", choices, (f"layers.{i}.up",), "mlp_width") for i in range(genes)]
    )


@dataclass(frozen=True)
class Configured:
    """A sub-network that is its configuration."""

    configuration: Configuration


@dataclass(frozen=True)
class Ordered(SearchableDefaults):
    """Larger values cost more and are worth more, some layers more than others."""

    space: SearchSpace
    name: str = "ordered"

    def fingerprint(self) -> str:
        return self.name

    def subnetwork(self, configuration: Configuration) -> Configured:
        self.space.genome(configuration)
        return Configured(configuration)


@dataclass(frozen=True)
class Quality(EvaluatorDefaults):
    """A concave sum, in which the first layers matter more."""

    name: str = "accuracy"
    direction: str = "maximize"
    unit: str = ""

    def settings(self) -> dict:
        return {"shape": "concave"}

    def __call__(self, subnet: Configured) -> Measurement:
        values = np.array(list(subnet.configuration.values()), dtype=float)
        weights = 1.0 / np.arange(1, len(values) + 1)
        return Measurement(float((weights * np.sqrt(values / 32)).sum() / weights.sum()), stderr=0.01, n=100)


@dataclass(frozen=True)
class Cost(EvaluatorDefaults):
    """A plain sum."""

    name: str = "latency"
    direction: str = "minimize"
    unit: str = "ms"

    def settings(self) -> dict:
        return {}

    def __call__(self, subnet: Configured) -> Measurement:
        return Measurement(float(sum(subnet.configuration.values())))


EVALUATORS = [Quality(), Cost()]
