"""How far the best choices under a budget are pursued."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How far a solution is pursued, a problem.

    Args:
        gap: of the loss, relative to it, by which a solution may be worse than the best; 0 for the best.
        nodes: of HiGHS's search tree at most, where it is asked; None for as many as it takes. The best solution found
            by then is given.
        seconds: likewise. Where a computer is busy, a limit in seconds may change what is found.
        sums: of blocks that are looked at at once, beyond which HiGHS is asked; some 100 bytes each.

    Raises:
        ValueError: one of them is out of its range.
    """

    gap: float = 0.0
    nodes: int | None = None
    seconds: float | None = None
    sums: int = 3_000_000

    def __post_init__(self) -> None:
        if not self.gap >= 0:
            raise ValueError(f"gap is {self.gap}; give a fraction of the loss from 0 on, such as 0.01.")
        if self.nodes is not None and self.nodes < 1:
            raise ValueError(f"nodes is {self.nodes}; give at least 1, or None for as many as it takes.")
        if self.sums < 0:
            raise ValueError(f"sums is {self.sums}; give at least 0, for HiGHS alone.")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"seconds is {self.seconds}; give more than 0, or None for as long as it takes.")


EXACT = Effort()
REPEATABLE = Effort(gap=0.002, nodes=200)  # limits in nodes, not in seconds: the same everywhere
