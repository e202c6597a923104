"""Random search without repeats: the baseline that every other driver has to beat."""

from __future__ import annotations

import numpy as np

from nas_engine.search.driver import Objectives
from nas_engine.search.initial import first_generation
from search_spaces import Genome, SearchSpace


class RandomDriver:
    """Draws genomes uniformly, each once.

    Args:
        space: what to draw from.
        objectives: how many there are; random search does not look at them.
        population: how many genomes a batch has.
        seed: of the draws.
    """

    def __init__(self, space: SearchSpace, objectives: int, population: int, seed: int) -> None:
        self._space, self._population = space, population
        self._rng = np.random.default_rng(seed)
        self._seen: set[bytes] = set()

    def ask(self) -> Genome:
        """The next genomes, none of them asked before; empty once draws find no new one."""
        if self._seen:
            drawn = self._space.sample(self._rng, 100 * self._population)
        else:
            drawn = first_generation(self._space, self._population, self._rng)
        fresh: dict[bytes, Genome] = {}
        for genome in drawn:
            if len(fresh) < max(self._population, 3) and genome.tobytes() not in self._seen:
                fresh.setdefault(genome.tobytes(), genome)
        self._seen |= set(fresh)
        return np.array(list(fresh.values()), dtype=np.int64).reshape(-1, len(self._space))

    def tell(self, genomes: Genome, objectives: Objectives) -> None:
        """Nothing to learn."""
