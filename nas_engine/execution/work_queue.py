"""Who of several workers measures which position of a batch, so that neighbours stay together and nobody idles."""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable


class WorkQueue:
    """Positions of a batch, handed out one by one.

    A worker takes all free positions as its chunk and works through it in ascending order; one with nothing left takes
    the latter half of the largest chunk. So each works on neighbours of the depth-first order, which have the most in
    common, and nobody waits while another has two left (work stealing, Blumofe and Leiserson, 1999).
    """

    def __init__(self) -> None:
        self._free: list[int] = []
        self._chunks: dict[Hashable, list[int]] = {}

    def __len__(self) -> int:
        """How many positions were not handed out."""
        return len(self._free) + sum(map(len, self._chunks.values()))

    def offer(self, position: int) -> None:
        """Add a position, or one again that was handed out."""
        insort(self._free, position)

    def take(self, worker: Hashable) -> tuple[int, tuple[int, ...]] | None:
        """The next position for `worker`, and the new chunk that it begins; the chunk is empty where it goes on.

        None where no position is left.
        """
        if own := self._chunks.get(worker):
            return own.pop(0), ()
        chunk = self._free or self._stolen()
        if not chunk:
            return None
        if chunk is self._free:
            self._free = []
        self._chunks[worker] = chunk[1:]
        return chunk[0], tuple(chunk)

    def leave(self, worker: Hashable) -> None:
        """Free what `worker` was not handed out yet of its chunk."""
        for position in self._chunks.pop(worker, []):
            self.offer(position)

    def _stolen(self) -> list[int]:
        largest = max(self._chunks.values(), key=len, default=[])
        kept = len(largest) // 2
        taken = largest[kept:]
        del largest[kept:]
        return taken
