"""Going on with smaller batches where memory runs out. Knows no model and no data."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from evaluators.checks import require_at_least

T = TypeVar("T")

# torch's CPU allocator and the libraries below it raise a plain RuntimeError, which only its text tells from another.
_SAID_SO = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "failed to allocate",
    "alloc_failed",  # CUBLAS_STATUS_ALLOC_FAILED, CUDNN_STATUS_ALLOC_FAILED
    "std::bad_alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the CPU or an accelerator has no memory left, in any of torch's ways to say so."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in _SAID_SO)


class Halving:
    """A budget, such as tokens or rows of a batch, that halves whenever memory runs out, and stays there.

    The budget must change cost alone, never results: an evaluator holds one of these and gives every batch to `run`.

    Args:
        budget: what to begin with.
        least: below this it gives up; what cannot be smaller, such as one row.

    Attributes:
        budget: what the next action is given.

    Raises:
        ValueError: `least` below 1, or `budget` below `least`.
    """

    def __init__(self, budget: int, least: int = 1) -> None:
        require_at_least(1, least=least)
        require_at_least(least, budget=budget)
        self.budget, self.least = budget, least

    def __repr__(self) -> str:
        return f"Halving({self.budget}, least={self.least})"

    def run(self, action: Callable[[int], T]) -> T:
        """The result of ``action(budget)``, tried anew with half the budget until memory suffices.

        Raises:
            MemoryError: not even `least` fits; the last error is its cause. Other errors pass through.
        """
        while True:
            try:
                return action(self.budget)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self.budget == self.least:
                    raise MemoryError(
                        f"memory runs out even with a budget of {self.least} ({_first_line(error)}); "
                        "give shorter texts or a smaller model, or use a device with more memory."
                    ) from error
            # Outside the handler: the traceback held the tensors that the failed action had made.
            self.budget = max(self.least, self.budget // 2)
            free_memory()


def halving(action: Callable[[int], T], budget: int, least: int = 1) -> T:
    """The result of ``action(budget)``, tried anew with half the budget until memory suffices: a `Halving` used once.

    Raises:
        ValueError: `least` below 1, or `budget` below `least`.
        MemoryError: not even `least` fits.
    """
    return Halving(budget, least).run(action)


def free_memory() -> None:
    """Give back what no tensor uses any more: cycles, and blocks that accelerators' allocators keep."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
