"""Which sub-networks a training step visits. Pure functions of the space, the seed and the batch."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from search_spaces import Genome, SearchSpace

Strategy = Literal["uniform", "sandwich", "cycle", "largest"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)


def genomes_of_batch(space: SearchSpace, strategy: Strategy, seed: int, batch: int) -> Genome:
    """The genomes that one (micro-)batch trains, shape (visits, genes).

    ``uniform`` draws one uniformly at random, as LoNAS, Shears and SQFT train. ``sandwich`` (Yu and Huang, 2019, arXiv
    1903.05134, section 3.2) visits the largest, the smallest and two random ones. ``cycle`` visits one of these three
    kinds after the other, a batch each: both ends of the space are trained as well, at the cost of ``uniform``.
    ``largest`` visits the largest alone: plain LoRA on the whole model.
    """
    if strategy == "largest":
        return np.atleast_2d(space.largest)
    rng = np.random.default_rng([seed, batch])
    if strategy == "sandwich":
        return np.vstack([space.largest, space.smallest, space.sample(rng, 2)])
    if strategy == "cycle" and batch % 3 < 2:
        return np.atleast_2d((space.largest, space.smallest)[batch % 3])
    return space.sample(rng)
