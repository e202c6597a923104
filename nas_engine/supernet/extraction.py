"""From an active sub-network to a physically smaller model of its own, adapters merged."""

from __future__ import annotations

import copy

from torch import nn
from transformers import PreTrainedModel

from nas_engine.supernet import modeling_subnetwork
from nas_engine.supernet.elastic import ElasticLinear
from nas_engine.supernet.families import Family


def extract(model: PreTrainedModel, family: Family, share_embeddings: bool = False) -> PreTrainedModel:
    """The active sub-network of `model` as an independent model, in evaluation mode.

    Equal widths in all layers give the stock architecture; different ones give the same architecture with
    `config.subnetwork_layers`, saved with the code that loads it.

    Args:
        model: a super-network's model, its elastic layers set to the sub-network's sizes.
        family: where the projections are.
        share_embeddings: keep the embedding tensors instead of copying them.
    """
    # `deepcopy` looks objects up in the memo before it copies them: elastic layers turn into their merged slices
    # and no full-size copy is ever made.
    memo: dict[int, object] = {
        id(module): module.merged() for module in model.modules() if isinstance(module, ElasticLinear)
    }
    if share_embeddings:
        memo |= {id(p): p for e in _embeddings(model) for p in e.parameters()}
    extracted: PreTrainedModel = copy.deepcopy(model, memo)
    _describe_widths(extracted, family)
    if not share_embeddings:
        extracted.requires_grad_(True)
    extracted.eval()
    return extracted


def _embeddings(model: PreTrainedModel) -> list[nn.Module]:
    return [model.get_input_embeddings(), model.get_output_embeddings()]


def _describe_widths(model: PreTrainedModel, family: Family) -> None:
    widths = family.shape(model).intermediate_sizes
    layers = model.get_submodule(family.layers)
    for layer, width in zip(layers.children(), widths, strict=True):
        layer.get_submodule("mlp").intermediate_size = width  # type: ignore[assignment]
    if len(set(widths)) == 1:
        model.config.intermediate_size = widths[0]
        return
    model.config.subnetwork_layers = [{"intermediate_size": width} for width in widths]
    model.__class__ = getattr(modeling_subnetwork, f"Subnetwork{type(model).__name__}")
