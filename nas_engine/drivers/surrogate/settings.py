"""How much work a surrogate puts into a proposal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SurrogateSettings:
    """How much work goes into a proposal.

    Args:
        batch: genomes asked at once; None takes a tenth of those told, at least 2 and at most a quarter of the
            population: an early answer changes the most.
        survivors: genomes that survive a generation of the inner search, and candidates at its end.
        generations: of the inner search.
        draws: of the posterior, over which the gain is averaged; a quarter of them for three objectives and more, whose
            hypervolume costs more.
        known: evaluated genomes, the best predicted ones, against whose front gain is measured.
        refit: growth of the evaluations after which the prediction's variances are fitted again.
    """

    batch: int | None = None
    survivors: int = 100
    generations: int = 30
    draws: int = 64
    known: int = 60
    refit: float = 1.15
