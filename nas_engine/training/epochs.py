"""Which examples a batch of training holds: every epoch shows each once, beside others of its length."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

_WINDOW_BATCHES = 8  # long enough for alike lengths, short enough for batches of ever new company


def batch_indices(batch: int, batch_size: int, lengths: tuple[int, ...], seed: int) -> list[int]:
    """Which examples batch number `batch` of an endless run holds; every epoch has an order of its own.

    Batches hold examples of similar length, so that little padding is computed: a random order is sorted by length
    within windows of a few batches, and the batches of a window are shuffled again. A function of its arguments
    alone, so that a resumed run draws what an uninterrupted one would.

    Args:
        lengths: tokens of every example.
    """
    examples = len(lengths)
    positions = range(batch * batch_size, (batch + 1) * batch_size)
    return [int(_epoch_order(lengths, batch_size, seed, p // examples)[p % examples]) for p in positions]


@lru_cache(maxsize=4)
def _epoch_order(lengths: tuple[int, ...], batch_size: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    by_length = np.array(lengths)
    window = batch_size * _WINDOW_BATCHES
    for start in range(0, len(order), window):
        part = order[start : start + window]
        part = part[np.argsort(by_length[part], kind="stable")]
        full = len(part) // batch_size * batch_size
        batches = rng.permutation(part[:full].reshape(-1, batch_size))
        order[start : start + window] = np.concatenate([batches.ravel(), part[full:]])
    return order
