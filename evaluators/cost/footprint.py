"""The memory that a sub-network takes: its weights, the keys and values it caches, and what it works in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from evaluators.checks import require_at_least
from evaluators.cost.phases import operators_of, require_workload
from evaluators.cost.stored import stored_bytes
from evaluators.latency.workload import Phase
from evaluators.protocol import Direction, EvaluatorDefaults, Measurement, Subnetwork


@dataclass(frozen=True)
class WeightBytes(EvaluatorDefaults):
    """Bytes of the parameters: matrices at their bit widths with their scales, the rest at the model's.

    Args:
        sparse: zeros are left out where a bit a weight that says which they are costs less; False stores them.
        name: column name of the score.
    """

    sparse: bool = False
    name: str = "weight_bytes"
    direction: Direction = "minimize"
    unit: str = "B"

    computed: ClassVar[bool] = True

    @property
    def rewards_zeros(self) -> bool:
        """Whether zeros lower the score."""
        return self.sparse

    def settings(self) -> Mapping[str, Any]:
        """Whether zeros are left out."""
        return {"sparse": self.sparse}

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Add up what `subnet` stores."""
        return Measurement(stored_bytes(subnet, self.sparse))


@dataclass(frozen=True)
class KVCacheBytes(EvaluatorDefaults):
    """Bytes of the keys and values of `batch` sequences of `tokens` tokens.

    A layer without attention caches nothing. Every layer counts as caching all tokens, as a full-attention layer does;
    one with a sliding window shorter than `tokens` holds fewer.

    Args:
        batch: sequences at once.
        tokens: cached tokens of each.
        bits: of one cached element; None takes the model's.
        name: column name of the score.

    Raises:
        ValueError: an argument below 1.
    """

    batch: int = 1
    tokens: int = 1024
    bits: int | None = None
    name: str = "kv_cache_bytes"
    direction: Direction = "minimize"
    unit: str = "B"

    computed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_at_least(1, batch=self.batch, tokens=self.tokens)
        if self.bits is not None:
            require_at_least(1, bits=self.bits)

    def settings(self) -> Mapping[str, Any]:
        """The sequences and the bits of an element."""
        return {"batch": self.batch, "tokens": self.tokens, "bits": self.bits}

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Add up the layers of `subnet`."""
        return Measurement(kv_cache_bytes(subnet, self.batch, self.tokens, self.bits))


@dataclass(frozen=True)
class PeakMemory(EvaluatorDefaults):
    """An estimate of the most bytes that generation holds at once: weights, cached keys and values, and activations.

    Activations are those of the largest block, attention, MLP or output head, as `working_bytes` says. Left out are
    the runtime's own memory, workspaces of matrix libraries, what an allocator keeps or loses to fragments, and copies
    that a framework makes on loading or converting. On tiny models the tests find a forward pass of PyTorch on the CPU
    within a factor of 1.5 of it, above the weights.

    Args:
        batch: sequences at once.
        tokens: length of each; in the decode phase, how many are cached.
        phase: ``prefill`` or ``decode``, as of `Latency`.
        fused_attention: scores are never held as a whole, as in flash and other fused attention; False adds them.
        name: column name of the score.

    Raises:
        ValueError: an argument out of range.
    """

    batch: int = 1
    tokens: int = 1024
    phase: Phase = "prefill"
    fused_attention: bool = True
    name: str = "peak_memory"
    direction: Direction = "minimize"
    unit: str = "B"

    computed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_workload(self.batch, self.tokens, self.phase)

    def settings(self) -> Mapping[str, Any]:
        """The workload and the kind of attention."""
        return {
            "batch": self.batch,
            "tokens": self.tokens,
            "phase": self.phase,
            "fused_attention": self.fused_attention,
        }

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Estimate the peak of `subnet`."""
        cached = self.tokens + (self.phase == "decode")
        working = working_bytes(subnet, self.batch, self.tokens, self.phase, self.fused_attention)
        return Measurement(stored_bytes(subnet) + kv_cache_bytes(subnet, self.batch, cached) + working)


def kv_cache_bytes(subnet: Subnetwork, batch: int, tokens: int, bits: int | None = None) -> int:
    """Bytes of the cached keys and values of `batch` sequences of `tokens` tokens; `bits` of None are the model's."""
    bits = bits or subnet.operators(batch=1, tokens=1)[0].activation_bits
    elements = sum(2 * sizes.kv_heads * sizes.head_size for sizes in subnet.layer_sizes)
    return -(-elements * batch * tokens * bits // 8)


def working_bytes(subnet: Subnetwork, batch: int, tokens: int, phase: Phase, fused_attention: bool = True) -> int:
    """Bytes of the activations that the hungriest block holds at once.

    Each block holds the residual stream and its normalized copy. Attention adds queries and keys before and after
    their rotation, values and its output, and without fused attention the scores and their softmax; a gated MLP adds
    four times its width (gate, activated gate, up, and their product), another twice; the head adds its logits.
    """
    operators = operators_of(subnet, batch, tokens, phase)
    by_name = {op.name: op for op in operators}
    rows = batch * (tokens if phase == "prefill" else 1)
    head = by_name["lm_head"]
    hidden = rows * head.k
    most = head.m * head.n + hidden
    for i, sizes in enumerate(subnet.layer_sizes):
        queries, keys = sizes.heads * sizes.head_size, sizes.kv_heads * sizes.head_size
        attention = rows * (3 * queries + 3 * keys)
        if sizes.heads and not fused_attention:
            scores = by_name[f"layers.{i}.scores"]
            attention += 2 * scores.count * scores.m * scores.n
        mlp = rows * max(1, sizes.experts_per_token) * sizes.intermediate_size * (4 if sizes.gated else 2)
        most = max(most, 2 * hidden + attention, 2 * hidden + mlp)
    return -(-most * operators[0].activation_bits // 8)
