"""What a space may offer for where its sub-networks will run; data, and nothing about any runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """What sub-networks of one model may have, so that one runtime can run them. By default, anything.

    Args:
        target: the runtime, for messages.
        multiple_of: MLP widths below the whole one are multiples of it.
        heads: the numbers of query heads that a layer may have, ascending; None for any.
        alike: dimensions of which all layers have the same value, of ``mlp_width`` and ``attention_heads``.
        whole: dimensions that cannot vary, with the reason.
        kept: blocks that cannot be left out, such as ``layers.0.attention``.
        fused: projections that are stored in the same bits, a group each.
    """

    target: str = ""
    multiple_of: int = 1
    heads: tuple[int, ...] | None = None
    alike: frozenset[str] = frozenset()
    whole: Mapping[str, str] = field(default_factory=dict)
    kept: frozenset[str] = frozenset()
    fused: tuple[tuple[str, ...], ...] = ()

    def width(self, size: float, full: int, multiple_of: int) -> int:
        """The width nearest to `size` that is whole, or a multiple of both."""
        if "mlp_width" in self.whole or size >= full:
            return full
        step = math.lcm(self.multiple_of, multiple_of)
        return min(full, max(step, round(size / step) * step))

    def query_heads(self, wanted: float, full: int, group: int) -> int:
        """The number of query heads nearest to `wanted`, in whole KV groups of `group`."""
        if self.heads is None:
            return min(full, max(1, round(wanted / group)) * group)
        return min(self.heads, key=lambda heads: (abs(heads - wanted), -heads))
