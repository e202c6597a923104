"""The bytes of tensors that are alive, and their peak: of real tensors, and of those that only have a shape."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class TensorBytes(TorchDispatchMode):
    """While it is entered, counts what operations make and what is let go again.

    Workspace inside an operation, and what an allocator keeps, are not seen.

    Attributes:
        held: bytes made and still alive.
        peak: the most that `held` was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and see what it gives; what it was given was there before, or is seen already."""
        tree_map_only(Tensor, self._given, (args, kwargs))
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._made, result)
        return result

    def _given(self, tensor: Tensor) -> Tensor:
        self._know(tensor, 0)
        return tensor

    def _made(self, tensor: Tensor) -> Tensor:
        self._know(tensor, 0 if tensor.device.type == "meta" else tensor.untyped_storage().nbytes())
        return tensor

    def _know(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._gone, key, size).atexit = False

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Of the storages of `tensors`, each counted once: views and tied weights share one."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def bytes_of_model(model: torch.nn.Module) -> int:
    """Of its parameters and buffers."""
    return bytes_of([*model.parameters(), *model.buffers()])
