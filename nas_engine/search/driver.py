"""The seam between search algorithms and everything else: integer vectors go out, numbers come back."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from search_spaces import Genome

Objectives = npt.NDArray[np.float64]


class Driver(Protocol):
    """Proposes genomes and learns from their objectives. Knows nothing of networks, files or time.

    A driver is deterministic: the same seed and the same objectives give the same genomes, which is what makes a
    replayed search continue as an uninterrupted one would have.

    One with an attribute `asynchronous` that is True may be asked several times before it is told; it is then told all
    answers at once, in the order asked for.
    """

    def ask(self) -> Genome:
        """The next genomes to evaluate, shape (batch, genes); an empty batch says that it has no more to propose."""
        ...

    def tell(self, genomes: Genome, objectives: Objectives) -> None:
        """Learn the objectives of the genomes asked last.

        Args:
            genomes: shape (batch, genes), as asked.
            objectives: shape (batch, objectives), all to be minimized; a row of NaN is a failed evaluation.
        """
        ...
