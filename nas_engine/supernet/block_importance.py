"""How much a model says without one of its attention or MLP blocks differs from what it says with all."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nas_engine.supernet.elastic_model import ElasticModel
from nas_engine.supernet.layer import BLOCKS
from nas_engine.supernet.ordering import final_states
from nas_engine.texts.batches import Batch
from search_spaces import ModuleName


@torch.no_grad()
def block_importance(supernet: ElasticModel, batches: Sequence[Batch]) -> dict[str, float]:
    """See `SuperNetwork.block_importance`."""
    model = supernet.model
    supernet.activate_genome(supernet.space.largest)
    model.eval()
    whole = final_states(model, batches)
    importance = {}
    for layer in supernet.layers:
        for block in BLOCKS:
            layer.set_kept(block, kept=False)
            try:
                change = final_states(model, batches) - whole
            finally:
                layer.set_kept(block, kept=True)
            importance[str(ModuleName(layer.index, block))] = (change.norm() / whole.norm()).item()
    return importance
