"""How much each gene matters before anything is searched: what one value alone changes of what the network says.

Every gene is given each of its values while the others stay at their largest; the Kullback-Leibler divergence of the
next tokens' distributions from the largest sub-network's says how much that changes. It needs no labels, and being a
comparison of two distributions rather than two scores, it needs a few texts only. Losses of a sub-network's genes
roughly add up, which is why layers may be judged one by one (LLM compression by a layer's error: EvoPress, arXiv
2410.14649, section 2, says where that fails); here they are a hint for a search, which corrects it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from evaluators.head import logits_of
from nas_engine.batches import Batch, on_device, token_count
from nas_engine.progress import progress_bar
from nas_engine.supernet.ordering import final_states

if TYPE_CHECKING:
    from nas_engine.supernet.supernetwork import SuperNetwork

_POSITIONS = 256  # at which distributions are compared, at most about twice as many


@torch.no_grad()
def sensitivity(supernet: SuperNetwork, batches: Iterable[Batch], progress: bool) -> dict[str, tuple[float, ...]]:
    """See `SuperNetwork.sensitivity`."""
    model, space = supernet.model, supernet.space
    given = list(on_device(batches, model.device))
    if not token_count(given):
        raise ValueError("the calibration data is empty; give at least one batch with a token in it.")
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
