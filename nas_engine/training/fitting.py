"""Before a sub-network heals: its last projections fitted to the teacher's residual stream, layer after layer.

What a narrow layer gets wrong, the layers after it inherit. So each layer's last projection W (down; o where the MLP is
left out), reading X, is moved by the least-squares solution of ``X ΔWᵀ = T - H``, for the stream H that the sub-network
has there, errors of earlier layers included, and the stream T that the teacher has. One forward pass of each does it:
each layer is fitted to what the fitted layers below it give. SparseGPT (Frantar and Alistarh, 2023, arXiv 2301.00774)
solves layer by layer from the pruned model's inputs too; here the target is the stream itself, so that blocks that are
left out are made up for as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nas_engine.compression.calibration import calibrated_layers
from nas_engine.supernet.elastic import ElasticLinear
from nas_engine.supernet.subnetwork import Subnetwork
from nas_engine.texts.batches import Batch, readable
from nas_engine.training.teacher import Teacher

_DAMPING = 0.01  # of the mean square of an input: what the texts never tell apart stays as it was


def can_fit(subnet: Subnetwork) -> bool:
    """Whether the last projection of a layer adds to the stream as it is, and may take any weight."""
    return subnet.plain and not subnet.family.norm_last and subnet.family.complete


@torch.no_grad()
def fit_to_teacher(
    subnet: Subnetwork, model: PreTrainedModel, teacher: Teacher, batches: Sequence[Batch]
) -> tuple[str, ...]:
    """Move frozen weights of `model`, in place; their names in its state.

    Args:
        subnet: of which `model` is the extracted form, with elastic layers; see `can_fit`.
        model: a sub-network alone.
        teacher: whose stream is the target.
        batches: `input_ids` and `attention_mask` of shape (rows, tokens).
    """
    left, family = subnet.layers_left, subnet.family
    # A layer is compared with what the teacher hands to the next layer that is left.
    ends = [following - 1 for following in [*left[1:], len(subnet.layers)]]
    targets = _streams(teacher, ends, batches)
    masks = [batch["attention_mask"].bool() for batch in readable(batches, model)]
    fitted = []
    for layer, end in zip(calibrated_layers(model, batches), ends, strict=True):
        name = next((name for name in ("down", "o") if name in layer.projections), "")
        last = layer.projections.get(name)
        if not isinstance(last, ElasticLinear):
            continue
        inside = layer.inside(name)
        read = torch.cat([x[mask] for (x, _), mask in zip(inside, masks, strict=True)])
        given = torch.cat([stream[mask] for (_, stream), mask in zip(inside, masks, strict=True)])
        update = damped_least_squares(read, targets[end] - given)
        last.matrix.add_(update.T)
        layer.given = [stream + x @ update for x, stream in inside]
        fitted.append(f"{family.layers}.{layer.index}.{family.projections[name]}.weight")
    return tuple(fitted)


def _streams(teacher: Teacher, ends: Sequence[int], batches: Sequence[Batch]) -> dict[int, Tensor]:
    """The teacher's hidden states after the layers `ends`, padding left out, shape (tokens, hidden)."""
    found: dict[int, list[Tensor]] = {end: [] for end in ends}
    mask = torch.empty(0)

    def keep(end: int, module: nn.Module, args: Any, output: Any) -> None:
        found[end].append((output if isinstance(output, Tensor) else output[0])[mask])

    with teacher.taught() as supernet:
        handles = [supernet.layers[end].module.register_forward_hook(partial(keep, end)) for end in ends]
        try:
            for batch in readable(batches, supernet.model):
                mask = batch["attention_mask"].bool()
                inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
                supernet.model.base_model(**inputs, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
    return {end: torch.cat(states) for end, states in found.items()}


def damped_least_squares(inputs: Tensor, outputs: Tensor) -> Tensor:
    """``argmin |inputs · U - outputs|² + λ |U|²``, shape (inputs, outputs), in the type of `outputs`."""
    x = inputs.double()
    products = x.T @ x
    products.diagonal().add_(_DAMPING * products.diagonal().mean())
    update: Tensor = torch.linalg.solve(products, x.T @ outputs.double())
    return update.to(outputs.dtype)
