"""Which genes interact in a score: blocks of genes over which it may be a sum, found by trying pairs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import numpy.typing as npt

from search_spaces import Genome, SearchSpace

BatchScoreFunction = Callable[[Genome], npt.NDArray[np.float64]]
_PAIRS = 4000  # of genes that are tried at most
_TOLERANCE = 1e-9  # relative to the largest genome's score


def interacting_genes(
    space: SearchSpace, scores: BatchScoreFunction, combinations_at_most: int
) -> tuple[list[int], ...] | None:
    """Positions of genes by block: those that move a layer in common, and where that makes more joint choices than
    `combinations_at_most`, those among them that interact in a score.

    Two genes interact where both at their smallest change a score by other than the sum of what each changes alone,
    and so do those that interact with a common one. That is a guess: whoever adds up blocks checks the sum.

    Args:
        space: the genomes'.
        scores: of genomes, shape (genomes, scores).
        combinations_at_most: of a block.

    Returns:
        None where a block has more joint choices all the same, or there are too many pairs to try.
    """
    large = [group for group in space.layer_groups if _size(space, group) > combinations_at_most]
    if sum(len(group) * (len(group) - 1) // 2 for group in large) > _PAIRS:
        return None
    blocks: list[list[int]] = []
    for group in space.layer_groups:
        blocks += _split(space, scores, list(group)) if group in large else [list(group)]
    return tuple(blocks) if all(_size(space, b) <= combinations_at_most for b in blocks) else None


def _split(space: SearchSpace, scores: BatchScoreFunction, group: list[int]) -> list[list[int]]:
    pairs = list(combinations(range(len(group)), 2))
    changed = [(), *((i,) for i in range(len(group))), *pairs]  # genes at their smallest
    genomes = np.repeat(space.largest[None], len(changed), axis=0)
    for row, which in enumerate(changed):
        genomes[row, [group[i] for i in which]] = 0
    values = scores(genomes)
    alone = values[1 : len(group) + 1]
    block = list(range(len(group)))
    for (i, j), both in zip(pairs, values[len(group) + 1 :], strict=True):
        apart = both - alone[i] - alone[j] + values[0]
        # One that is NaN, having failed or being unknown, says nothing of any pair.
        if (np.abs(apart) > _TOLERANCE * np.maximum(np.abs(values[0]), 1e-300)).any():
            block = [block[i] if b == block[j] else b for b in block]
    return [[group[i] for i, b in enumerate(block) if b == name] for name in dict.fromkeys(block)]


def _size(space: SearchSpace, group: list[int] | tuple[int, ...]) -> int:
    return int(np.prod(space.cardinalities[list(group)].astype(float)))
