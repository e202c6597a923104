"""Sub-networks that agree on their first layers compute those layers once.

The sub-networks of a search form a trie by what is active in their layers. Outputs of layers are kept at its nodes: at
those where a later sub-network of the batch branches off, until the last of them has run, and beyond these at every few
layers for batches to come, whose sub-networks are children of earlier ones. A kept output is the one that the layer
gave, so that every sub-network computes what it would compute alone, bit for bit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from evaluators.protocol import Subnetwork

Signature = tuple[Hashable, ...]  # what is active in each layer
_SHARE_OF_FREE_MEMORY = 0.25
_STRIDE = 3  # layers between outputs that are kept for later batches


def depth_first(subnets: Sequence[Subnetwork]) -> list[int]:
    """The order in which sub-networks share the most, as positions in `subnets`: equal first layers side by side."""
    signatures = [subnet.layer_signatures for subnet in subnets]
    return sorted(range(len(subnets)), key=signatures.__getitem__)


def free_memory_share(device: torch.device) -> int:
    """A quarter of the memory that is free on `device` now, in bytes."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return int(_SHARE_OF_FREE_MEMORY * free)


class PrefixReuse:
    """The layers of one model, run by sub-networks in turns on the same inputs, batch after batch.

    Nothing but what is active in the layers may change meanwhile: neither weights nor inputs.

    Args:
        layers: the model's layers.
        memory_bytes: kept outputs take no more than this; what does not fit is computed again.
    """

    def __init__(self, layers: Sequence[nn.Module], memory_bytes: int) -> None:
        self._layers = layers
        self._room = memory_bytes
        self._nodes: dict[tuple[int, Hashable], int] = {}  # of the trie, by parent and what is active in the layer
        self._kept: OrderedDict[tuple[Hashable, int], Any] = OrderedDict()  # by inputs and node, the stalest first
        self.begin([])
        self.layers_run = 0
        self.layers_reused = 0

    def begin(self, signatures: Sequence[Signature]) -> None:
        """Turn to a new batch.

        Args:
            signatures: of every sub-network, in the order of their turns; see `depth_first`.
        """
        self._paths = [self._path(signature) for signature in signatures]
        self._branches = branches_of(signatures)
        self._last = {node: turn for turn, path in enumerate(self._paths) for node in path}
        for key in [key for key in self._kept if key[1] in self._last]:
            self._kept.move_to_end(key)  # what is of use again is not stale

    @contextmanager
    def turn(self, position: int, inputs: Hashable) -> Iterator[None]:
        """While open, one forward pass of the model is the sub-network's at `position`, on the inputs of that name.

        Positions come in ascending order; some may be left out.
        """
        path = self._paths[position]
        start = next((d for d in range(len(path), 0, -1) if (inputs, path[d - 1]) in self._kept), 0)
        originals = [layer.forward for layer in self._layers]

        def forward(index: int, *args: Any, **kwargs: Any) -> Any:
            if index < start:
                # All layers up to there give its output; what follows reads the last one's.
                return self._kept[inputs, path[start - 1]]
            output = originals[index](*args, **kwargs)
            for_later = (index + 1) % _STRIDE == 0 and index + 1 < len(self._layers)
            if for_later or index + 1 in self._branches[position]:
                self._keep((inputs, path[index]), output, position)
            return output

        self.layers_reused += start
        self.layers_run += len(self._layers) - start
        with ExitStack() as stack:
            for index, layer in enumerate(self._layers):
                stack.enter_context(_forward_replaced(layer, partial(forward, index)))
            yield

    @property
    def kept_bytes(self) -> int:
        """Bytes of the outputs that are kept."""
        return sum(map(_bytes, self._kept.values()))

    def clear(self) -> None:
        """Forget all outputs."""
        self._room += self.kept_bytes
        self._kept.clear()

    def _path(self, signature: Signature) -> tuple[int, ...]:
        """The nodes of the trie that a sub-network passes, one a layer."""
        node, path = 0, []
        for active in signature:
            node = self._nodes.setdefault((node, active), len(self._nodes) + 1)
            path.append(node)
        return tuple(path)

    def _keep(self, key: tuple[Hashable, int], output: Any, position: int) -> None:
        size = _bytes(output)
        if size > self._room:
            self._make_room(size, position)
        if size <= self._room:
            self._kept[key] = output
            self._room -= size

    def _make_room(self, size: int, position: int) -> None:
        """Forget the stalest outputs; what a later turn of this batch passes is of certain use, and stays."""
        stale = [key for key in self._kept if self._last.get(key[1], -1) <= position]
        for key in stale:
            if size <= self._room:
                return
            self._room += _bytes(self._kept.pop(key))


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


def branches_of(signatures: Sequence[Signature]) -> list[set[int]]:
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
