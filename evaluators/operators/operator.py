"""A sub-network as a hardware engineer sees it: the matrix products of a forward pass, with their sizes and bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Operator:
    """`count` products of an (m, k) activation with a (k, n) operand.

    Args:
        name: such as ``layers.3.up``, ``layers.3.scores`` or ``lm_head``.
        kind: ``weight`` where the operand is a stored matrix, ``attention`` where it is the keys or the values.
        m: rows of the activation: batch times tokens for a weight, for attention the tokens of all query heads that
            share one head of keys and values.
        k: the dimension summed over.
        n: columns of the result.
        count: how many such products: batch times KV heads for attention, 1 for a weight.
        weight_bits: bits of one stored element of the operand.
        activation_bits: bits of one element of the activation and of the result.
        sparsity: fraction of the operand's elements that are zero.
        scale_bytes: of the scales and zero points stored with a quantized operand.
    """

    name: str
    kind: Literal["weight", "attention"]
    m: int
    k: int
    n: int
    count: int = 1
    weight_bits: int = 32
    activation_bits: int = 32
    sparsity: float = 0.0
    scale_bytes: int = 0

    @property
    def elements(self) -> int:
        """Elements of all operands, zeros included."""
        return self.count * self.k * self.n

    @property
    def zeros(self) -> int:
        """Elements of the operands that are zero."""
        return round(self.sparsity * self.elements)

    @property
    def macs(self) -> int:
        """Multiply-accumulates, zeros included."""
        return self.m * self.elements

    @property
    def nonzero_macs(self) -> int:
        """Multiply-accumulates with what is not zero."""
        return self.m * (self.elements - self.zeros)

    @property
    def compute_bits(self) -> int:
        """Bits of the wider operand, at which the product runs: 4-bit weights alone save traffic, not arithmetic."""
        return max(self.weight_bits, self.activation_bits) if self.kind == "weight" else self.activation_bits

    @property
    def weight_bytes(self) -> int:
        """Bytes of stored weights read, with their scales; 0 for attention, whose operands are activations."""
        if self.kind != "weight":
            return 0
        return (-(-self.k * self.n * self.weight_bits // 8) + self.scale_bytes) * self.count

    @property
    def sparse_weight_bytes(self) -> int:
        """As `weight_bytes`, without the zeros: a bit a weight says which they are. Dense where that is less."""
        if self.kind != "weight" or not self.sparsity:
            return self.weight_bytes
        bits = (self.elements - self.zeros) * self.weight_bits + self.elements
        sparse = -(-bits // 8) + self.scale_bytes * self.count
        return min(sparse, self.weight_bytes)

    @property
    def activation_bytes(self) -> int:
        """Bytes of activations read and written; for attention the keys or values count among them."""
        elements = self.m * (self.k + self.n) + (self.k * self.n if self.kind == "attention" else 0)
        return self.count * elements * self.activation_bits // 8

    @property
    def bytes(self) -> int:
        """All bytes moved when nothing is reused from a cache."""
        return self.weight_bytes + self.activation_bytes
