"""What of a sub-network is stored, told apart by what multiplies and what does not. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.operators.operator import Operator
from evaluators.protocol import Subnetwork

_ADAPTER = (".lora_A", ".lora_B")


def weights_of(subnet: Subnetwork) -> list[Operator]:
    """The operators whose operand is a stored matrix, each of which stands for that matrix once."""
    return [op for op in subnet.operators(batch=1, tokens=1) if op.kind == "weight"]


def stored_parameters(subnet: Subnetwork, weights: Sequence[Operator]) -> int:
    """Parameters of the model that `weights` describe: with its adapters where they are operators of their own."""
    return subnet.parameter_count(merged=not any(op.name.endswith(_ADAPTER) for op in weights))


def stored_bytes(subnet: Subnetwork, sparse: bool = False) -> int:
    """Bytes of all parameters: matrices at their bit widths with their scales, all others as wide as the activations.

    The others are norms, biases and an embedding of its own; one that is tied to the output head is the head's matrix
    and counts once. `sparse` leaves out zeros; see `Operator.sparse_weight_bytes`.
    """
    weights = weights_of(subnet)
    multiplied = sum(op.elements for op in weights)
    others = stored_parameters(subnet, weights) - multiplied
    bits = max(op.activation_bits for op in weights)
    matrices = sum(op.sparse_weight_bytes if sparse else op.weight_bytes for op in weights)
    return matrices + -(-others * bits // 8)
