"""Sub-networks that agree on their first layers compute those layers once.

The sub-networks of a batch form a trie by what is active in their layers. They run depth first, and the outputs at
which later ones branch off are kept until the last of those has run. A kept output is the one that the layer gave, so
that every sub-network computes what it would compute alone, bit for bit.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from evaluators.protocol import Subnetwork

Signature = tuple[Hashable, ...]  # what is active in each layer
MEMORY_BYTES = 2**30


def depth_first(subnets: Sequence[Subnetwork]) -> list[int]:
    """The order in which sub-networks share the most, as positions in `subnets`: equal first layers side by side."""
    signatures = [subnet.layer_signatures for subnet in subnets]
    return sorted(range(len(subnets)), key=signatures.__getitem__)


class PrefixReuse:
    """The layers of one model, run by sub-networks in turns on the same inputs.

    Args:
        layers: the model's layers.
        signatures: of every sub-network, in the order of their turns; see `depth_first`.
        memory_bytes: kept outputs take no more than this; what does not fit is computed again.
    """

    def __init__(self, layers: Sequence[nn.Module], signatures: Sequence[Signature], memory_bytes: int) -> None:
        self._layers, self._signatures = layers, signatures
        self._branches = _branches(signatures)
        self._room = memory_bytes
        # For every input: the signature that ran on it last, and outputs along its path by the number of layers run.
        self._paths: dict[Hashable, Signature] = {}
        self._kept: dict[Hashable, dict[int, Any]] = {}
        self.layers_run = 0
        self.layers_reused = 0

    @contextmanager
    def turn(self, position: int, inputs: Hashable) -> Iterator[None]:
        """While open, one forward pass of the model is the sub-network's at `position`, on the inputs of that name.

        Turns on the same inputs come in the order of positions; some may be left out.
        """
        signature = self._signatures[position]
        kept = self._kept.setdefault(inputs, {})
        shared = _common(self._paths.get(inputs, ()), signature)
        for depth in [depth for depth in kept if depth > shared]:
            self._room += _bytes(kept.pop(depth))
        start = max(kept, default=0)
        self._paths[inputs] = signature
        originals = [layer.forward for layer in self._layers]

        def forward(index: int, *args: Any, **kwargs: Any) -> Any:
            if index < start:
                return kept[start]  # all layers up to the branch give its output; what follows reads the last one's
            output = originals[index](*args, **kwargs)
            if index + 1 in self._branches[position] and _bytes(output) <= self._room:
                kept[index + 1] = output
                self._room -= _bytes(output)
            return output

        self.layers_reused += start
        self.layers_run += len(self._layers) - start
        with ExitStack() as stack:
            for index, layer in enumerate(self._layers):
                stack.enter_context(_forward_replaced(layer, partial(forward, index)))
            yield

    def clear(self) -> None:
        """Forget all outputs."""
        self._room += sum(_bytes(output) for kept in self._kept.values() for output in kept.values())
        self._kept.clear()
        self._paths.clear()


@contextmanager
def _forward_replaced(module: nn.Module, forward: Any) -> Iterator[None]:
    """An attribute of the instance hides the class's method; one that was there (accelerate's hooks) comes back."""
    own = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = own


def _branches(signatures: Sequence[Signature]) -> list[set[int]]:
    """For each turn, how many layers it has run where a later turn leaves its path."""
    shared = [_common(a, b) for a, b in pairwise(signatures)]  # with the turn before
    result = []
    for position in range(len(signatures)):
        depths, least = set(), len(signatures[position]) + 1
        for depth in shared[position:]:
            least = min(least, depth)
            if not least:
                break
            depths.add(least)
        result.append(depths)
    return result


def _common(a: Signature, b: Signature) -> int:
    """On how many first layers two signatures agree."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _bytes(output: Any) -> int:
    if isinstance(output, Tensor):
        return output.numel() * output.element_size()
    return sum(map(_bytes, output)) if isinstance(output, tuple | list) else 0
