"""Who of several workers measures which position of a batch, so that neighbours stay together and nobody idles."""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable


class Shares:
    """Positions of a batch, handed out one by one.

    A worker takes all free positions as its share and works through it in ascending order; one with nothing left takes
    the latter half of the largest share. So each works on neighbours of the depth-first order, which have the most in
    common, and nobody waits while another has two left (work stealing, Blumofe and Leiserson, 1999).
    """

    def __init__(self) -> None:
        self._free: list[int] = []
        self._shares: dict[Hashable, list[int]] = {}

    def __len__(self) -> int:
        """How many positions were not handed out."""
        return len(self._free) + sum(map(len, self._shares.values()))

    def offer(self, position: int) -> None:
        """Add a position, or one again that was handed out."""
        insort(self._free, position)

    def take(self, worker: Hashable) -> tuple[int, tuple[int, ...]] | None:
        """The next position for `worker`, and the new share that it begins; the share is empty where it goes on.

        None where no position is left.
        """
        if own := self._shares.get(worker):
            return own.pop(0), ()
        share = self._free or self._stolen()
        if not share:
            return None
        if share is self._free:
            self._free = []
        self._shares[worker] = share[1:]
        return share[0], tuple(share)

    def leave(self, worker: Hashable) -> None:
        """Free what `worker` was not handed out yet of its share."""
        for position in self._shares.pop(worker, []):
            self.offer(position)

    def _stolen(self) -> list[int]:
        largest = max(self._shares.values(), key=len, default=[])
        kept = len(largest) // 2
        taken = largest[kept:]
        del largest[kept:]
        return taken
