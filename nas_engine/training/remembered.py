"""What was computed of batches lately, within a bound of memory, for those who ask about the same ones again."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

_MOST = 2**26  # bytes: a hundred thousand answers of 160 numbers, or of a billion parameters eight thousand
Pairs = list[tuple[Tensor, Tensor]]


class Remembered:
    """Pairs of tensors by key; once there are too many bytes of them, the oldest are forgotten.

    Args:
        most: bytes that are held.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most, self._bytes = most, 0
        self._found: dict[str, Pairs] = {}

    def of(self, key: str, make: Callable[[], Pairs]) -> Pairs:
        """What is held under `key`, or what `make` gives now."""
        if key not in self._found:
            self._found[key] = make()
            self._bytes += _size(self._found[key])
            while self._bytes > self._most and len(self._found) > 1:
                self._bytes -= _size(self._found.pop(next(iter(self._found))))
        return self._found[key]


def _size(pairs: Pairs) -> int:
    return sum(tensor.nbytes for pair in pairs for tensor in pair)
