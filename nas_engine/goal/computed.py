"""What is known of genomes without an evaluation: scores that follow from sizes, tabulated once and added up.

A sub-network's parameters, MACs or table latency take milliseconds to compute, and a driver that searches on
predictions asks for thousands. Nearly all such scores are sums over layers, so that a table a layer says all of them
exactly: it is made by varying one layer at a time, and checked on random genomes. A score that is no such sum is left
to be learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nas_engine.arrays import Array
from nas_engine.drivers.interactions import interacting_genes
from search_spaces import Genome, SearchSpace

ScoreFunction = Callable[[Genome], float]
_ENTRIES = 4000  # of all tables together, each one call of the score
_CHECKED = 12  # random genomes on which the sum has to agree
_TOLERANCE = 1e-9  # relative


@dataclass(frozen=True)
class LayerTables:
    """A score as a sum over groups of genes.

    Args:
        groups: positions of the genes of each group.
        tables: what each combination of a group's indices adds, flattened in C order.
        cardinalities: of all genes.
        base: the score of the largest genome, of which tables hold differences.
    """

    groups: tuple[tuple[int, ...], ...]
    tables: tuple[Array, ...]
    cardinalities: Genome
    base: float

    def __call__(self, genomes: Genome) -> Array:
        """The score of each genome, shape (batch,)."""
        total = np.full(len(genomes), self.base, dtype=np.float64)
        for group, table in zip(self.groups, self.tables, strict=True):
            columns = list(group)
            rows = np.ravel_multi_index(tuple(genomes[:, columns].T), tuple(self.cardinalities[columns]))
            total += table[rows]
        return total


def tabulate(score: ScoreFunction, space: SearchSpace) -> LayerTables | None:
    """`score` as a sum over layers; None where it is none, fails, or would need too many calls.

    Args:
        score: of one genome.
        space: the genomes'.
    """
    cardinalities = space.cardinalities
    # A cost model is anybody's code: whatever it raises here it raises again where it is evaluated and recorded.
    try:
        base = float(score(space.largest))
        if not np.isfinite(base):
            return None
        groups = _groups(score, space)
        if groups is None:
            return None
        tables = tuple(_table(score, space, group) - base for group in groups)
        found = LayerTables(groups, tables, cardinalities, base)
        checked = space.sample(np.random.default_rng(0), _CHECKED)
        expected = np.array([score(genome) for genome in checked])
    except Exception:
        return None
    return found if np.allclose(found(checked), expected, rtol=_TOLERANCE, atol=0.0) else None


def _groups(score: ScoreFunction, space: SearchSpace) -> tuple[tuple[int, ...], ...] | None:
    """Genes whose joint choices are tabulated: a layer's; those of it that interact, where a layer has too many."""

    def scores(genomes: Genome) -> Array:
        return np.array([[score(genome)] for genome in genomes])

    layers = space.layer_groups
    if _entries(space, layers) <= _ENTRIES:
        return layers
    blocks = interacting_genes(space, scores, _ENTRIES // len(layers))
    return None if blocks is None or _entries(space, blocks) > _ENTRIES else tuple(tuple(b) for b in blocks)


def _entries(space: SearchSpace, groups: Sequence[Sequence[int]]) -> int:
    return sum(math.prod(space.cardinalities[list(group)].tolist()) for group in groups)


def _table(score: ScoreFunction, space: SearchSpace, group: Sequence[int]) -> Array:
    columns = list(group)
    shape = tuple(space.cardinalities[columns])
    values = np.empty(int(np.prod(shape)))
    for row in range(len(values)):
        genome = space.largest
        genome[columns] = np.unravel_index(row, shape)
        values[row] = score(genome)
    return values
