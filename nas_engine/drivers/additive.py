"""Losses and costs that are sums over blocks of genes: what each joint choice of a block loses, and what it costs.

A sensitivity says what each gene's values are expected to cost in quality, one alone; a cost such as a table's latency
is a sum over layers exactly. Genes of a layer are chosen jointly, because they interact: a block that is left out makes
its width, heads and ranks worthless, and bits count by the width. `exact_front` finds the best choices of all blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt
from moocore import is_nondominated

from nas_engine.arrays import Array
from nas_engine.drivers.interactions import interacting_genes
from search_spaces import Genome, SearchSpace

KEPT = 200  # joint choices of a block at most, after dominated ones are dropped
_COMBINATIONS = 4096  # of a block's values at most
_CHECKED = 12  # random genomes on which the sum has to agree
_TOLERANCE = 1e-7  # of the sum, relative to what the blocks can change


def costs_of(genomes: Genome, sensitivity: Sequence[Array]) -> Array:
    """What each gene is expected to cost in quality, shape (genomes, genes)."""
    return np.stack([of_gene[genomes[:, i]] for i, of_gene in enumerate(sensitivity)], axis=1)


def columns_of(scores: Callable[[Genome], Array], columns: npt.NDArray[np.int64]) -> Callable[[Genome], Array]:
    """Some of the columns of what `scores` gives, which is of shape (genomes, columns)."""
    return lambda genomes: scores(genomes)[:, columns]


@dataclass(frozen=True)
class Additive:
    """Expected losses and costs of every joint choice of a block of genes, the others at their largest.

    Args:
        largest: genome of the largest sub-network.
        groups: positions of the genes of each block.
        values: of each block, its joint choices, shape (choices, genes of the block).
        losses: what each of them is expected to lose, shape (choices,).
        costs: what each changes of every cost, shape (choices, costs).
        base: costs of the largest sub-network, shape (costs,).
    """

    largest: Genome
    groups: tuple[list[int], ...]
    values: tuple[Genome, ...]
    losses: tuple[Array, ...]
    costs: tuple[Array, ...]
    base: Array

    @classmethod
    def of(cls, space: SearchSpace, sensitivity: Sequence[Array], cost: Callable[[Genome], Array]) -> Additive | None:
        """None where a block has too many joint choices, or the costs are no such sums or cannot be lowered.

        Args:
            space: the genomes'.
            sensitivity: of each gene in turn, by its index.
            cost: of genomes, shape (genomes,), or (genomes, costs) of several.
        """

        def costs_at(genomes: Genome) -> Array:
            return cost(genomes).reshape(len(genomes), -1)

        groups, largest = interacting_genes(space, costs_at, _COMBINATIONS), space.largest
        if groups is None:
            return None
        values = tuple(np.array(list(product(*(range(len(space.genes[i])) for i in g)))) for g in groups)
        base = costs_at(largest[None])[0]
        losses, costs = [], []
        for group, of_group in zip(groups, values, strict=True):
            genomes = np.repeat(largest[None], len(of_group), axis=0)
            genomes[:, group] = of_group
            losses.append(costs_of(genomes, sensitivity)[:, group].sum(axis=1))
            costs.append(costs_at(genomes) - base)
        found = cls(largest, groups, values, tuple(losses), tuple(costs), base)
        sampled = space.sample(np.random.default_rng(0), _CHECKED)
        off = np.abs(found.costs_at(sampled) - costs_at(sampled)).max(axis=0)
        additive = (off <= _TOLERANCE * (np.abs(base) + found.reach)).all()  # not so where a cost is NaN
        return found if additive and (found.base > found.least_costs).any() else None

    @property
    def reach(self) -> Array:
        """How far each cost goes from the cheapest choices to the dearest, shape (costs,)."""
        return np.asarray(sum(np.ptp(costs, axis=0) for costs in self.costs))

    @property
    def least_costs(self) -> Array:
        """The least that each cost can be, the others unbounded, shape (costs,)."""
        return np.asarray(self.base + sum(costs.min(axis=0) for costs in self.costs))

    @property
    def most_costs(self) -> Array:
        """The most that each cost can be, shape (costs,)."""
        return np.asarray(self.base + sum(costs.max(axis=0) for costs in self.costs))

    def losses_at(self, genomes: Genome) -> Array:
        """Summed losses, shape (genomes,)."""
        return np.asarray(sum(losses[rows] for losses, rows in zip(self.losses, self.rows(genomes), strict=True)))

    def costs_at(self, genomes: Genome) -> Array:
        """Summed costs, shape (genomes, costs)."""
        return self.base + sum(costs[rows] for costs, rows in zip(self.costs, self.rows(genomes), strict=True))

    def rows(self, genomes: Genome) -> list[npt.NDArray[np.int64]]:
        """Which choice of each block the genomes have, each of shape (genomes,); -1 for one that was dropped."""
        found = []
        for group, values in zip(self.groups, self.values, strict=True):
            same = (genomes[:, None, group] == values).all(axis=2)  # (genomes, choices)
            found.append(np.where(same.any(axis=1), same.argmax(axis=1), -1))
        return found

    def genome(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> Genome:
        """The genome of one choice a block, shape (genes,)."""
        genome = self.largest.copy()
        for group, values, row in zip(self.groups, self.values, rows, strict=True):
            genome[group] = values[row]
        return genome

    def with_losses(self, losses: Sequence[Array]) -> Additive:
        """The same blocks and costs with other losses."""
        return replace(self, losses=tuple(losses))

    def efficient(self, kept: int = KEPT) -> Additive:
        """Without the choices that another of their block beats in loss and all costs: no best sum needs them.

        Where more than `kept` are left, as many of them, evenly by their first cost, with the least loss and the least
        of each cost among them; what is best is then the best of these.
        """
        values, losses, costs = [], [], []
        for of_block, lost, spent in zip(self.values, self.losses, self.costs, strict=True):
            rows = np.flatnonzero(is_nondominated(np.column_stack([lost, spent]), keep_weakly=False))
            if len(rows) > kept:
                corners = [lost[rows].argmin(), *spent[rows].argmin(axis=0)]
                order = np.argsort(spent[rows, 0], kind="stable")
                even = order[np.linspace(0, len(rows) - 1, max(kept - len(corners), 1)).round().astype(int)]
                rows = rows[np.unique([*corners, *even])]
            values.append(of_block[rows])
            losses.append(lost[rows])
            costs.append(spent[rows])
        return replace(self, values=tuple(values), losses=tuple(losses), costs=tuple(costs))
