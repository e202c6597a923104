"""What is best where losses and a cost are sums over layers: at a price of the cost, each layer chooses for itself.

A sensitivity says what each gene's values are expected to cost in quality, one alone; a cost such as a table's latency
is a sum over layers exactly. The least of loss + price · cost is then found layer by layer (Lagrange multipliers:
Everett, 1963), and is the least loss of all genomes of its cost or less: the convex hull of the front, for the time of
a sort. Puzzle (Bercovich et al., 2024, arXiv 2411.19146, section 3) chooses blocks by such sums too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from nas_engine.drivers.initial import distinct
from search_spaces import Genome, SearchSpace

Array = npt.NDArray[np.float64]
_COMBINATIONS = 4096  # of a group's values at most
_PRICES = 48  # at which the hull is looked at
_HALVINGS = 60  # of the range of prices, until a bound is met


def costs_of(genomes: Genome, sensitivity: Sequence[Array]) -> Array:
    """What each gene is expected to cost in quality, shape (genomes, genes)."""
    return np.stack([of_gene[genomes[:, i]] for i, of_gene in enumerate(sensitivity)], axis=1)


@dataclass(frozen=True)
class Additive:
    """Expected losses and a cost of every choice of a group of genes, the others at their largest.

    Args:
        largest: genome of the largest sub-network.
        groups: positions of genes that move a layer in common.
        values: of each group, all its combinations, shape (combinations, genes of the group).
        losses: what each of them is expected to lose, shape (combinations,).
        costs: likewise, what it costs.
    """

    largest: Genome
    groups: tuple[list[int], ...]
    values: tuple[Genome, ...]
    losses: tuple[Array, ...]
    costs: tuple[Array, ...]

    @classmethod
    def of(cls, space: SearchSpace, sensitivity: Sequence[Array], cost: Callable[[Genome], Array]) -> Additive | None:
        """None where a group has too many combinations, or nothing is lost or saved.

        Args:
            space: the genomes'.
            sensitivity: of each gene in turn, by its index.
            cost: of genomes, shape (genomes,).
        """
        groups, largest = tuple(list(group) for group in space.layer_groups), space.largest
        if max(int(np.prod(space.cardinalities[group])) for group in groups) > _COMBINATIONS:
            return None
        values = tuple(np.array(list(product(*(range(len(space.genes[i])) for i in g)))) for g in groups)
        losses, costs = [], []
        for group, of_group in zip(groups, values, strict=True):
            genomes = np.repeat(largest[None], len(of_group), axis=0)
            genomes[:, group] = of_group
            losses.append(costs_of(genomes, sensitivity).sum(axis=1))
            costs.append(cost(genomes) - cost(largest[None]))
        found = cls(largest, groups, values, tuple(losses), tuple(costs))
        return found if found._reach > 0 else None

    @property
    def _reach(self) -> float:
        """The most that a group loses over the most that one saves: where prices begin to matter."""
        saved = max(float(np.ptp(costs)) for costs in self.costs)
        return max(float(np.ptp(losses)) for losses in self.losses) / saved if saved else 0.0

    def at(self, price: float) -> Genome:
        """The genome of the least loss + price · cost, shape (genes,)."""
        genome = self.largest.copy()
        for group, values, losses, costs in zip(self.groups, self.values, self.losses, self.costs, strict=True):
            genome[group] = values[np.lexsort((losses, losses + price * costs))[0]]
        return genome

    def hull(self) -> Genome:
        """Genomes along the hull, from the largest to the cheapest, shape (found, genes)."""
        return distinct(np.stack([self.at(price) for price in self._reach * np.geomspace(1e-4, 1e4, _PRICES)]))

    def within(self, saving: float) -> Genome | None:
        """The genome of the least loss that costs at most the largest's less `saving`; None where none does.

        On the hull, and then as much larger as the bound allows, the greatest relief first.
        """
        low, high = 0.0, self._reach * 1e6
        if self._saved(self.at(high)) < saving:
            return None
        for _ in range(_HALVINGS):
            middle = (low + high) / 2 if low else high / 16
            low, high = (low, middle) if self._saved(self.at(middle)) >= saving else (middle, high)
        return self._filled(self.at(high), saving)

    def _filled(self, genome: Genome, saving: float) -> Genome:
        while True:
            room = self._saved(genome) - saving
            best, relief = None, 0.0
            for group, values, losses, costs in zip(self.groups, self.values, self.losses, self.costs, strict=True):
                now = int(np.flatnonzero((values == genome[group]).all(axis=1))[0])
                gains = np.where(costs - costs[now] <= room, losses[now] - losses, 0.0)
                if gains.max() > relief:
                    best, relief = (group, values[int(gains.argmax())]), float(gains.max())
            if best is None:
                return genome
            genome = genome.copy()
            genome[best[0]] = best[1]

    def _saved(self, genome: Genome) -> float:
        rows = zip(self.groups, self.values, self.costs, strict=True)
        return -sum(float(costs[(values == genome[group]).all(axis=1)][0]) for group, values, costs in rows)
