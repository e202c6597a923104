"""A synthetic problem of 96 ordered genes: LoNAS's space for LLaMA-7B, with an invented accuracy and its true MACs.

Space (LREC-COLING 2024, main.940): in each of 32 layers the attention's adapter rank (28, 32), the MLP's width (50,
62.5, 75, 87.5, 100 % of 11,008) and the MLP's adapter rank (28, 32).

The accuracy, to be large, is that of a model that loses what each layer loses, and more where two neighbours lose much:

    damage   = Σ_l a_l · s_l^p_l  +  Σ_l c_l · s_l · s_(l+1)  +  Σ_l (b_l · [attention rank 28] + d_l · [MLP rank 28])
    accuracy = 0.25 + 0.41 · 2^(-damage / Σ(a + b + c + d))

where s_l is 0 for the whole width and 1 for half of it. Sensitivities a_l are log-normal about a bathtub over depth
(the first and the last layers matter most, as ablations of LLMs find); p_l in 1.2 … 2.5 makes returns diminish as a
layer widens; c_l couples neighbouring layers, three in four for the worse; ranks matter little, and one in four helps
when it is small. The smallest sub-network has lost half of what the largest has above chance. A measurement is the
share of right answers among 1,000 questions: binomial noise, 1.5 points at 66 %.

The second objective, to be small, is the MACs of the linear layers at 256 tokens, LoNAS's own figure.

All constants are drawn from `seed`; none was adjusted to any driver.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks._search_problem import BenchmarkProblem, Scores, corners
from search_spaces import Choice, Genome, SearchSpace

LAYERS = 32
HIDDEN, FULL_WIDTH = 4096, 11008
WIDTHS = (5504, 6880, 8256, 9632, 11008)
RANKS = (28, 32)
TOKENS = 256
CHANCE, HEADROOM = 0.25, 0.41
QUESTIONS = 1000


def lonas_space(layers: int = LAYERS) -> SearchSpace:
    """The genes of each layer in turn: attention rank, MLP width, MLP rank."""
    choices = []
    for i in range(layers):
        attention = tuple(f"layers.{i}.{name}" for name in ("q", "k", "v"))
        mlp = tuple(f"layers.{i}.{name}" for name in ("gate", "up"))
        choices += [
            Choice(f"layers.{i}.attention.rank", RANKS, attention, "lora_rank"),
            Choice(f"layers.{i}.mlp.width", WIDTHS, mlp, "mlp_width"),
            Choice(f"layers.{i}.mlp.rank", RANKS, mlp, "lora_rank"),
        ]
    return SearchSpace.of(choices)


@dataclass(frozen=True)
class Lonas96:
    """The problem with the constants that `seed` draws; see the module's text.

    Args:
        seed: of the sensitivities; one problem a seed.
        layers: fewer make a smaller problem of the same kind.
    """

    seed: int = 0
    layers: int = LAYERS

    @property
    def space(self) -> SearchSpace:
        """Three genes a layer."""
        return lonas_space(self.layers)

    def accuracy(self, genomes: Genome) -> npt.NDArray[np.float64]:
        """The true accuracy of each genome, shape (batch,)."""
        rng = np.random.default_rng([96, self.seed])
        depth = np.linspace(-1, 1, self.layers)
        sensitivity = (0.4 + depth**2) * rng.lognormal(0.0, 0.6, self.layers)  # (layers,)
        power = rng.uniform(1.2, 2.5, self.layers)
        coupling = 0.25 * rng.lognormal(0.0, 0.5, self.layers - 1) * rng.choice([1, 1, 1, -1], self.layers - 1)
        ranks = 0.05 * rng.lognormal(0.0, 0.5, (2, self.layers)) * rng.choice([1, 1, 1, -1], (2, self.layers))
        attention, width, mlp = (genomes.reshape(len(genomes), self.layers, 3)[..., i] for i in range(3))
        cut = 1 - width / (len(WIDTHS) - 1)  # (batch, layers) 0 for the whole width, 1 for half of it
        damage = (sensitivity * cut**power).sum(axis=1) + (coupling * cut[:, 1:] * cut[:, :-1]).sum(axis=1)
        damage = damage + (ranks[0] * (1 - attention) + ranks[1] * (1 - mlp)).sum(axis=1)
        whole = sensitivity.sum() + coupling.sum() + ranks.sum()
        accuracy: npt.NDArray[np.float64] = CHANCE + HEADROOM * np.exp(-np.log(2) * damage / whole)
        return accuracy

    def measured(self, accuracy: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """What 1,000 questions say of true accuracies."""
        return rng.binomial(QUESTIONS, accuracy) / QUESTIONS

    def macs(self, genomes: Genome) -> npt.NDArray[np.float64]:
        """Multiply-accumulates of the linear layers and their adapters at 256 tokens, shape (batch,)."""
        attention, width, mlp = (genomes.reshape(len(genomes), self.layers, 3)[..., i] for i in range(3))
        widths, ranks = np.array(WIDTHS)[width], np.array(RANKS)
        base = 4 * HIDDEN * HIDDEN + 3 * HIDDEN * widths
        adapters = 3 * ranks[attention] * 2 * HIDDEN + (2 * ranks[mlp] + RANKS[-1]) * (HIDDEN + widths)  # down: 32
        total: npt.NDArray[np.float64] = (TOKENS * (base + adapters)).sum(axis=1).astype(float)
        return total


def sensitivity(lonas: Lonas96, rng: np.random.Generator) -> tuple[npt.NDArray[np.float64], ...]:
    """What each gene's values alone cost in nats of accuracy above chance, off by a factor drawn for each gene.

    Half of the factors lie between 0.7 and 1.4, as gradients foretell divergences (rank correlations of 0.89 to 0.94);
    what neighbours lose together is not in it.
    """
    space, found = lonas.space, []
    for position, gene in enumerate(space.genes):
        genomes = np.repeat(space.largest[None], len(gene), axis=0)
        genomes[:, position] = np.arange(len(gene))
        above = np.log((lonas.accuracy(genomes) - CHANCE) / HEADROOM)
        found.append(np.maximum(above[-1] - above, 0.0) * rng.lognormal(0.0, 0.5))
    return tuple(found)


def lonas_problem(seed: int = 0) -> BenchmarkProblem:
    """The problem for `benchmarks.search_drivers`: accuracy measured on 1,000 questions, MACs computed."""
    lonas = Lonas96(seed)
    space = lonas.space

    def true(genomes: Genome) -> Scores:
        return np.column_stack([-lonas.accuracy(genomes), lonas.macs(genomes)]), np.empty((len(genomes), 0))

    def measure(genomes: Genome, rng: np.random.Generator) -> Scores:
        measured = lonas.measured(lonas.accuracy(genomes), rng)
        return np.column_stack([-measured, lonas.macs(genomes)]), np.empty((len(genomes), 0))

    def computed(genomes: Genome) -> npt.NDArray[np.float64]:
        return np.column_stack([np.full(len(genomes), np.nan), lonas.macs(genomes)])

    ideal, nadir = corners(space, true)
    hint = sensitivity(lonas, np.random.default_rng([97, seed]))
    return BenchmarkProblem(space, true, measure, ideal, nadir, np.full(2, 1.1), computed, hint)
