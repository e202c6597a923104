"""Synthetic problems as models are before any healing: quality falls off a cliff, and a constraint says where to stop.

30 layers, each with an attention block that is kept or left out and an MLP of five widths, none among them. What
layers lose adds up, and the more is lost the more the next loss costs:

    loss = L + L² / 8,    L = Σ_l (a_l · [no attention] + m_l · cut_l^p_l)

in nats, at most 120. Losses of single blocks are log-normal and larger in the first and the last layers; all of the
MLPs together are worth 9 nats, all of the attention 6. ``cliff`` minimizes a perplexity, 36 · exp(loss), which is at
most to be four times the largest sub-network's: the smallest one's is 1e52 times that. ``chance`` maximizes an
accuracy, 1/3 + 0.62 / (1 + exp(4 · (loss - 1.2))), of 128 questions, which is at least to be 0.6 of the largest one's;
below, it is chance. The other objective is a cost that adds up over blocks, and is computed.

All constants are drawn from `seed`; none was adjusted to any driver.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from benchmarks._search_problem import BenchmarkProblem, Scores
from search_spaces import Choice, Genome, SearchSpace

Array = npt.NDArray[np.float64]
LAYERS, WIDTHS = 30, (0, 384, 768, 1152, 1536)
MLP_NATS, ATTENTION_NATS, MOST_NATS = 9.0, 6.0, 120.0
PERPLEXITY, TIMES = 36.0, 4.0  # of the largest, and how much larger a perplexity may be
CHANCE, HEADROOM, EDGE, STEEPNESS, QUESTIONS, PART = 1 / 3, 0.62, 1.2, 4.0, 128, 0.6
ATTENTION_COST, CHANNEL_COST, REST = 3.0, 7.0 / 1536, 10.0  # in ms: of a block, of a channel, of all else


@dataclass(frozen=True)
class Cliff:
    """What blocks cost and lose; see the module's text."""

    seed: int = 0

    @property
    def space(self) -> SearchSpace:
        """Two genes a layer."""
        genes = []
        for i in range(LAYERS):
            genes.append(Choice(f"layers.{i}.attention.keep", (0, 1), (f"layers.{i}.attention",), "layer_skip"))
            genes.append(Choice(f"layers.{i}.mlp.width", WIDTHS, (f"layers.{i}.mlp",), "mlp_width"))
        return SearchSpace.of(genes)

    @cached_property
    def _blocks(self) -> tuple[Array, Array, Array]:
        """Nats of each layer's attention and MLP, and the powers of the latter's cuts, each of shape (layers,)."""
        rng = np.random.default_rng([98, self.seed])
        depth = 0.4 + np.linspace(-1, 1, LAYERS) ** 2
        attention, mlp = (depth * rng.lognormal(0.0, 0.7, LAYERS) for _ in range(2))
        return (
            ATTENTION_NATS * attention / attention.sum(),
            MLP_NATS * mlp / mlp.sum(),
            rng.uniform(1.2, 2.5, LAYERS),
        )

    def added(self, genomes: Genome) -> Array:
        """L of each genome, shape (batch,)."""
        attention, mlp, power = self._blocks
        kept, width = genomes[:, 0::2], genomes[:, 1::2]
        found: Array = ((1 - kept) * attention + (1 - width / (len(WIDTHS) - 1)) ** power * mlp).sum(axis=1)
        return found

    def loss(self, genomes: Genome) -> Array:
        """Of each genome in nats, shape (batch,)."""
        added = self.added(genomes)
        return np.minimum(added + added**2 / 8, MOST_NATS)

    def cost(self, genomes: Genome) -> Array:
        """Of each genome in ms, shape (batch,)."""
        attention, channels = genomes[:, 0::2].sum(axis=1), np.array(WIDTHS)[genomes[:, 1::2]].sum(axis=1)
        found: Array = REST + ATTENTION_COST * attention + CHANNEL_COST * channels
        return found

    def hint(self, rng: np.random.Generator) -> tuple[Array, ...]:
        """What each gene's values alone add to L, off by a factor drawn for each gene."""
        found = []
        for position, gene in enumerate(self.space.genes):
            genomes = np.repeat(self.space.largest[None], len(gene), axis=0)
            genomes[:, position] = np.arange(len(gene))
            found.append(self.added(genomes) * rng.lognormal(0.0, 0.5))
        return tuple(found)


def cliff_problem(seed: int = 0) -> BenchmarkProblem:
    """A perplexity with noise of 2 %, and the cost."""

    def noisy(perplexity: Array, rng: np.random.Generator) -> Array:
        return perplexity * rng.lognormal(0.0, 0.02, len(perplexity))

    cliff = Cliff(seed)
    return _problem(cliff, lambda genomes: PERPLEXITY * np.exp(cliff.loss(genomes)), noisy, TIMES * PERPLEXITY)


def chance_problem(seed: int = 0) -> BenchmarkProblem:
    """An accuracy of 128 questions, and the cost."""

    def negative(genomes: Genome) -> Array:
        loss = np.minimum(cliff.loss(genomes), 50.0)
        return -(CHANCE + HEADROOM / (1 + np.exp(STEEPNESS * (loss - EDGE))))

    def noisy(accuracy: Array, rng: np.random.Generator) -> Array:
        return -rng.binomial(QUESTIONS, -accuracy) / QUESTIONS

    cliff = Cliff(seed)
    return _problem(cliff, negative, noisy, PART * float(negative(cliff.space.largest[None])[0]))


def _problem(
    cliff: Cliff,
    quality: Callable[[Genome], Array],
    noisy: Callable[[Array, np.random.Generator], Array],
    bound: float,
) -> BenchmarkProblem:
    """Volume counts where the constraint is kept: from the largest one's quality to the bound, of all costs."""

    def scores(genomes: Genome, worth: Array) -> Scores:
        missed = (worth - bound) / abs(bound)
        return np.column_stack([worth, cliff.cost(genomes)]), missed[:, None]

    def true(genomes: Genome) -> Scores:
        return scores(genomes, quality(genomes))

    def measure(genomes: Genome, rng: np.random.Generator) -> Scores:
        return scores(genomes, noisy(quality(genomes), rng))

    def computed(genomes: Genome) -> Array:
        unknown = np.full(len(genomes), np.nan)
        return np.column_stack([unknown, cliff.cost(genomes), unknown])

    space = cliff.space
    costs = cliff.cost(np.stack([space.smallest, space.largest]))
    ideal = np.array([float(quality(space.largest[None])[0]), costs[0]])
    nadir = np.array([bound, costs[1]])
    hint = cliff.hint(np.random.default_rng([99, cliff.seed]))
    return BenchmarkProblem(space, true, measure, ideal, nadir, np.full(2, 1.1), computed, hint)
