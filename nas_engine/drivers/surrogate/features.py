"""What a genome's value may depend on: numbers of a genome from which a surrogate predicts.

Levels are positions in a gene's order, from 0 (smallest value) to 1 (largest). Sub-networks of an LLM lose by how
much is taken away in all, by where it is taken away, and by what neighbours have lost too; the features say these
three things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from nas_engine.arrays import Array
from nas_engine.drivers.additive import costs_of
from search_spaces import Choice, Genome, SearchSpace

_REACH = 4.0  # of the expected costs: from the largest sub-network to the smallest, in prior standard deviations
_BUMPS = 6  # places along the depth at which a kind's levels are summed


@dataclass(frozen=True)
class Features:
    """The features of some genomes, each of shape (genomes, …).

    Args:
        linear: features in whose sum the value is linear, by what they say; a prior variance belongs to each group.
            The last one, where it is there, is what each kind of gene is expected to cost.
        means: mean level of each kind of gene, for what saturates or falls off in all.
        levels: level of each gene, for everything else.
    """

    linear: tuple[Array, ...]
    means: Array
    levels: Array


class FeatureMap:
    """Makes features of genomes.

    Args:
        space: the genomes'. Genes are of one kind where they have the same dimension and projections; neighbours are
            the genes of one layer, and those of one kind in layers that follow each other.
        sensitivity: as `DriverProblem` has it.
    """

    def __init__(self, space: SearchSpace, sensitivity: Sequence[Array] | None = None) -> None:
        self._top = space.largest.astype(float)
        kinds = _kinds(space.genes)
        depth = np.array([gene.layer for gene in space.genes], dtype=float)
        self._means = np.stack([(kinds == k) / (kinds == k).sum() for k in range(kinds.max() + 1)], axis=1)
        self._bumps = _bumps(kinds, depth)
        self._pairs = _pairs(kinds, depth)
        self._curved = np.flatnonzero(self._top > 1)
        self._sensitivity = sensitivity
        self._most = sum(float(of_gene.max()) for of_gene in sensitivity or ())
        self._of_kind = self._means > 0

    def __call__(self, genomes: Genome) -> Features:
        """The features of `genomes`, shape (batch, genes)."""
        levels = genomes / self._top
        centred = 2 * levels - 1
        left, right = self._pairs
        curvature = 1.5 * centred[:, self._curved] ** 2 - 0.5
        means = levels @ self._means
        linear: tuple[Array, ...] = (
            2 * means - 1,
            centred @ self._bumps,
            centred / np.sqrt(len(self._top)),
            curvature / np.sqrt(max(len(self._curved), 1)),
            centred[:, left] * centred[:, right] / np.sqrt(max(len(left), 1)),
        )
        if self._sensitivity is not None:
            linear = (*linear, self._expected(genomes, self._sensitivity))
        return Features(linear, means, levels)

    def _expected(self, genomes: Genome, sensitivity: Sequence[Array]) -> Array:
        """What each kind is expected to cost, as a part of what all genes can cost, shape (genomes, kinds)."""
        expected: Array = _REACH * costs_of(genomes, sensitivity) @ self._of_kind / max(self._most, 1e-12)
        return expected


def _kinds(genes: Sequence[Choice]) -> npt.NDArray[np.int64]:
    keys = [(gene.dimension, tuple(sorted({m.split(".", 2)[-1] for m in gene.modules}))) for gene in genes]
    order = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([order[key] for key in keys], dtype=np.int64)


def _bumps(kinds: npt.NDArray[np.int64], depth: Array) -> Array:
    """Weights of Gaussian windows along the depth, a kind each, shape (genes, kinds · windows)."""
    span = max(float(np.ptp(depth)), 1.0)
    centres = depth.min() + span * np.linspace(0, 1, _BUMPS)
    windows = np.exp(-0.5 * ((depth[:, None] - centres) / (span / (_BUMPS - 1))) ** 2)  # (genes, windows)
    columns = np.concatenate([windows * (kinds == k)[:, None] for k in range(kinds.max() + 1)], axis=1)
    scaled: Array = columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-9) / np.sqrt(columns.shape[1])
    return scaled


def _pairs(kinds: npt.NDArray[np.int64], depth: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Neighbouring genes as two vectors of positions."""
    ordered = np.unique(depth)
    following = dict(pairwise(ordered))
    i, j = np.triu_indices(len(kinds), k=1)
    low, high = np.minimum(depth[i], depth[j]), np.maximum(depth[i], depth[j])
    adjacent = np.array([following.get(a) == b for a, b in zip(low, high, strict=True)], dtype=bool)
    chosen = (low == high) | (adjacent & (kinds[i] == kinds[j]))
    return i[chosen], j[chosen]
