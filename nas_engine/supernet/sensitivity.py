"""How much each gene matters before anything is searched: what one value alone changes of what the network says.

Every gene is given each of its values while the others stay at their largest; the Kullback-Leibler divergence of the
next tokens' distributions from the largest sub-network's says how much that changes. It needs no labels, and being a
comparison of two distributions rather than two scores, it needs few texts. `gradients`, the default, foretells it
without running a sub-network. Losses of its genes roughly add up, which is why layers may be judged one by one (LLM
compression by a layer's error: EvoPress, arXiv 2410.14649, section 2, says where that fails); here they are a hint for
a search, which corrects it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from matplotlib.axes import Axes
from torch import Tensor
from transformers import PreTrainedModel

from evaluators.text.head import logits_of
from nas_engine.plots import plot_sensitivity
from nas_engine.progress import progress_bar
from nas_engine.supernet.elastic_model import ElasticModel
from nas_engine.supernet.gradients import sensitivity_by_gradients
from nas_engine.supernet.ordering import final_states
from nas_engine.texts.batches import Batch, readable, token_count
from search_spaces import SearchSpace

SensitivityMethod = Literal["gradients", "divergence"]
_POSITIONS = 256  # at which distributions are compared, at most about twice as many


@dataclass(frozen=True)
class Sensitivity(Mapping[str, tuple[float, ...]]):
    """By gene, how much each of its values alone changes what the network says, in nats; 0 for the largest value.

    Args:
        values_by_gene: one number a value, in their order.
        space: of the genes.
    """

    values_by_gene: Mapping[str, tuple[float, ...]]
    space: SearchSpace

    def __getitem__(self, gene: str) -> tuple[float, ...]:
        return self.values_by_gene[gene]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_gene)

    def __len__(self) -> int:
        return len(self.values_by_gene)

    def __repr__(self) -> str:
        worst = max(self, key=lambda gene: self[gene][0], default="none")
        return f"Sensitivity of {len(self)} genes; {worst} matters most"

    def plot(self, ax: Axes | None = None) -> Axes:
        """A map of what the gene is by layer; see `nas_engine.plots.plot_sensitivity`."""
        return plot_sensitivity(self, self.space, ax)


def sensitivity(
    supernet: ElasticModel, batches: Iterable[Batch], progress: bool, method: SensitivityMethod
) -> Sensitivity:
    """See `SuperNetwork.sensitivity`."""
    if method not in get_args(SensitivityMethod):
        raise ValueError(f"method is {method!r}; choose one of {', '.join(get_args(SensitivityMethod))}.")
    given = list(readable(batches, supernet.model))
    if not token_count(given):
        raise ValueError("the calibration data is empty; give at least one batch with a token in it.")
    by = sensitivity_by_gradients if method == "gradients" else _sensitivity_by_divergence
    return Sensitivity(by(supernet, given, progress), supernet.space)


@torch.no_grad()
def _sensitivity_by_divergence(
    supernet: ElasticModel, given: list[Batch], progress: bool
) -> dict[str, tuple[float, ...]]:
    model, space = supernet.model, supernet.space
    model.eval()
    supernet.activate_genome(space.largest)
    whole = _log_probabilities(model, given)
    found: dict[str, tuple[float, ...]] = {}
    try:
        with progress_bar("Measuring sensitivity", int(space.largest.sum()), enabled=progress) as bar:
            for position, gene in enumerate(space.genes):
                changes = []
                for index in range(len(gene) - 1):
                    genome = space.largest.copy()
                    genome[position] = index
                    supernet.activate_genome(genome)
                    changes.append(_divergence(whole, _log_probabilities(model, given)))
                    bar.advance()
                found[gene.name] = (*changes, 0.0)
    finally:
        supernet.activate_genome(space.largest)
    return found


def _log_probabilities(model: PreTrainedModel, batches: list[Batch]) -> Tensor:
    """Of the next token at some positions, or of a classifier's classes, shape (positions or rows, outcomes)."""
    if model.get_output_embeddings() is None:
        return torch.cat([model(**batch).logits.float() for batch in batches]).log_softmax(-1)
    states = final_states(model, batches)
    return logits_of(model, states[:: max(1, len(states) // _POSITIONS)].to(model.dtype)).log_softmax(-1)


def _divergence(whole: Tensor, other: Tensor) -> float:
    """The mean divergence of `other` from `whole`, both logarithms of probabilities, in nats."""
    return max(float((whole.exp() * (whole - other)).sum(-1).mean()), 0.0)
