"""The arithmetic of a sub-network: multiply-accumulates of one forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from evaluators.checks import require_at_least
from evaluators.protocol import Direction, EvaluatorDefaults, Measurement, Subnetwork


@dataclass(frozen=True)
class Macs(EvaluatorDefaults):
    """Multiply-accumulates of a forward pass over `tokens` new tokens after `past` cached ones.

    Args:
        batch: sequences at once.
        tokens: new tokens of each.
        past: cached tokens of each.
        layer_weights_only: leave out attention products and the output head. At 256 tokens that is the figure which the
            LoNAS paper calls TFLOPs (LREC-COLING 2024, table 2).
        name: column name of the score.

    Raises:
        ValueError: `batch` or `tokens` below 1, or `past` below 0.
    """

    batch: int = 1
    tokens: int = 256
    past: int = 0
    layer_weights_only: bool = False
    name: str = "macs"
    direction: Direction = "minimize"
    unit: str = "MACs"
    computed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_at_least(1, batch=self.batch, tokens=self.tokens)
        require_at_least(0, past=self.past)

    def settings(self) -> Mapping[str, Any]:
        """The workload and what is counted."""
        return {
            "batch": self.batch,
            "tokens": self.tokens,
            "past": self.past,
            "layer_weights_only": self.layer_weights_only,
        }

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Add up the operators of `subnet`."""
        operators = subnet.operators(self.batch, self.tokens, self.past)
        if self.layer_weights_only:
            operators = [op for op in operators if op.kind == "weight" and op.name.startswith("layers.")]
        return Measurement(sum(op.macs for op in operators))
