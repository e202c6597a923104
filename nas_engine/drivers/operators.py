"""Crossover and mutation of integer genomes whose genes are ordered, as pure functions and as pymoo's operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pymoo.core.crossover import Crossover
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem

from search_spaces import Genome, SearchSpace

Rates = npt.NDArray[np.float64]
LEAP = 0.3  # probability that a mutated gene leaps to any other value instead of a step
_FIRST_CUT = 0.3  # of the layers, which stay with one parent wherever the cut falls
_LATER = 0.9  # how much likelier than on average the last layer's genes mutate, and the first one's less


def ordered_mutation(
    genomes: Genome, top: Genome, rng: np.random.Generator, leap: float = LEAP, rates: Rates | None = None
) -> Genome:
    """Change some genes: to a neighbouring value mostly, else to any other.

    Rounded real-valued mutation leaves a gene of two or three values as it was nearly always; this one never does.

    Args:
        genomes: shape (batch, genes).
        top: the largest index of each gene, shape (genes,), all above 0.
        rng: of all draws.
        leap: probability of a leap to any other value instead of a step.
        rates: of each gene, the probability that it changes, shape (genes,); None is 1 / genes for all.
    """
    mutated = rng.random(genomes.shape) < (1 / genomes.shape[1] if rates is None else rates)
    steps = np.where(rng.random(genomes.shape) < 0.5, -1, 1)
    steps = np.where((genomes + steps < 0) | (genomes + steps > top), -steps, steps)  # a step off the end turns round
    # An offset from 1 to n - 1, modulo n, reaches every other value alike.
    leaps = (genomes + rng.integers(1, np.maximum(top, 1) + 1, genomes.shape)) % (top + 1)
    moved = np.where(rng.random(genomes.shape) < leap, leaps, genomes + steps)
    return np.where(mutated, moved, genomes)


def neighbours(genome: Genome, top: Genome) -> Genome:
    """Every genome that is one step of one gene away, shape (up to 2 · genes, genes): smaller ones first."""
    down, up = np.flatnonzero(genome > 0), np.flatnonzero(genome < top)
    moved = np.repeat(genome[None], len(down) + len(up), axis=0)
    moved[np.arange(len(down)), down] -= 1
    moved[len(down) + np.arange(len(up)), up] += 1
    return moved


def first_layers(space: SearchSpace) -> Genome:
    """The first layer that each gene moves, shape (genes,)."""
    return np.array([gene.layer for gene in space.genes], dtype=np.int64)


def layer_masks(layers: Genome, count: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which genes come from the first parent, shape (count, genes): those of the layers before a random cut.

    A child shares its first layers with one parent, so that an evaluator may reuse what those layers computed. The cut
    falls between two layers, never within one, and not among the first, which would leave little to share.
    """
    cuts = np.unique(layers)
    first = max(1, int(_FIRST_CUT * len(cuts)))
    drawn = cuts[rng.integers(first, len(cuts), count)] if len(cuts) > 1 else np.full(count, cuts[0])
    return layers[None] < drawn[:, None]


def later_rates(layers: Genome) -> Rates:
    """Mutation rates that grow with depth, shape (genes,); one gene changes on average.

    A change in a late layer leaves the layers before it to be shared. Genes of the first layer still change, at a tenth
    of the average rate, and by crossover.
    """
    depth = layers - layers.min()
    weights = 1 + _LATER * (2 * depth / max(int(depth.max()), 1) - 1)
    rates: Rates = weights / weights.sum()
    return rates


class OrderedMutation(Mutation):  # type: ignore[misc]
    """`ordered_mutation` for pymoo.

    Args:
        leap: as `ordered_mutation` takes it, and `rates`.
    """

    def __init__(self, leap: float = LEAP, rates: Rates | None = None) -> None:
        super().__init__(prob=1.0)
        self.leap, self.rates = leap, rates

    def _do(self, problem: Problem, X: Genome, *args: Any, random_state: np.random.Generator, **kwargs: Any) -> Genome:
        return ordered_mutation(X.astype(np.int64), problem.xu.astype(np.int64), random_state, self.leap, self.rates)


class LayerCrossover(Crossover):  # type: ignore[misc]
    """One cut between layers, for pymoo: children share a prefix of layers with one parent each.

    Args:
        layers: of each gene, shape (genes,).
    """

    def __init__(self, layers: Genome) -> None:
        super().__init__(n_parents=2, n_offsprings=2, prob=0.9)
        self.layers = layers

    def _do(self, problem: Problem, X: Genome, *args: Any, random_state: np.random.Generator, **kwargs: Any) -> Genome:
        first, second = X  # each of shape (matings, genes)
        from_first = layer_masks(self.layers, len(first), random_state)
        return np.stack([np.where(from_first, first, second), np.where(from_first, second, first)])
