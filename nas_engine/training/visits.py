"""Which sub-networks a training run visited, and at what loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from search_spaces import Genome, SearchSpace


@dataclass(frozen=True)
class Visits:
    """The record of a run, one entry for every sub-network of every micro-batch.

    Args:
        space: the genes.
        genomes: shape (visits, genes).
        losses: the loss on the answers that each visit saw, in nats a token, shape (visits,).
    """

    space: SearchSpace
    genomes: Genome
    losses: tuple[float, ...]

    @property
    def frame(self) -> pd.DataFrame:
        """One row a visit: the value of every gene, and the loss."""
        columns = {gene.name: np.array(gene.values)[self.genomes[:, i]] for i, gene in enumerate(self.space.genes)}
        return pd.DataFrame(columns | {"loss": self.losses})

    @property
    def activations(self) -> pd.DataFrame:
        """One row for each value of each gene: how often it was active, and the mean loss when it was."""
        frame = self.frame
        rows = [
            {"gene": gene.name, "value": value, "visits": int(there.sum()), "loss": frame["loss"][there].mean()}
            for gene in self.space.genes
            for value in gene.values
            for there in [frame[gene.name] == value]
        ]
        return pd.DataFrame(rows)
