"""What the value of a gene is given to: the elastic layers whose ranks, heads, channels or blocks it sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from nas_engine.supernet.dimensions import EXPERTS, HEADS, RANK, SKIP, WIDTH
from nas_engine.supernet.elastic import ElasticLinear
from nas_engine.supernet.layer import ElasticLayer
from search_spaces import Choice, ModuleName


def resizers_of(
    choice: Choice, layers: Sequence[ElasticLayer], linears: Mapping[str, ElasticLinear]
) -> list[Callable[[int], None]]:
    """The setters of every size that `choice` is about; looked up once, for a search switches thousands of times.

    Args:
        choice: of a rank, a number of heads or channels, or whether a block is kept; others set nothing here.
        layers: of the super-network.
        linears: its elastic projections by name.
    """
    if choice.dimension == RANK:
        return [linears[module].set_rank for module in choice.modules]
    resizers: list[Callable[[int], None]] = []
    for module in choice.modules:
        index, name = ModuleName.parse(module)
        layer = layers[index]
        if choice.dimension == SKIP:
            resizers.append(partial(layer.set_kept, "attention" if name == "attention" else "mlp"))
        elif choice.dimension == HEADS and name == "o":
            resizers.append(layer.set_heads)
        elif choice.dimension == WIDTH and name in ("down", EXPERTS):
            resizers.append(layer.set_width)
        elif choice.dimension == EXPERTS:
            resizers.append(layer.set_experts)
    return resizers
