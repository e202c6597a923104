"""The bytes of tensors that are alive, and their peak: of real tensors, and of those that only have a shape."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class TensorBytes(TorchDispatchMode):
    """While it is entered, counts what operations make and what is let go again.

    Workspace inside an operation, and what an allocator keeps, are not seen.

    Attributes:
        held: bytes made and still alive.
        peak: the most that `held` was.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and see what it makes; what shares its memory with what it was given is not new."""
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._known and tensor.device.type != "meta":
                given = (*args, *(kwargs or {}).values())
                before = any(one.untyped_storage()._cdata == storage._cdata for one in _tensors(given))
                self._know(storage, 0 if before else storage.nbytes())
        return result

    def _know(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        self._known.add(key)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._gone, key, size).atexit = False

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


def _tensors(found: object) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, tuple | list):
        for one in found:
            yield from _tensors(one)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of `tensors`, each counted once: views and tied weights share one."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def bytes_of_model(model: torch.nn.Module) -> int:
    """Bytes of a model's parameters and buffers."""
    return bytes_of([*model.parameters(), *model.buffers()])
