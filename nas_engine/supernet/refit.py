"""Weights that do without the inputs left out: a projection's frozen weight fitted anew to each narrower width.

A prefix of `down` simply drops what the other channels added. Much of that can be had from the channels that are kept,
for channels of a layer are correlated: the weight of a width is the least-squares solution for the whole layer's output
on calibration texts, ``Ŵ = W_K + W_R G_RK (G_KK + λ I)⁻¹`` with the kept inputs K, those left out R, and ``G = Xᵀ X``.
This is the optimal update of the Optimal Brain Surgeon (Hassibi and Stork, 1993) for a whole set of inputs, as ZipLM
(Kurtić et al., 2023, arXiv 2302.04089, section 3.1) prunes by; here once for every width of a super-network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nas_engine.supernet.layer import READERS, ElasticLayer, Unit, spread
from nas_engine.supernet.ordering import Batch, listened, order_of

_DAMPING = 0.01  # of the mean square of an input, so that what calibration texts never tell apart stays as it was
_BYTES_AT_ONCE = 2**31  # of products, before the model runs again for the next ones


Reader = tuple[ElasticLayer, Unit]  # of a layer's heads or channels


@torch.no_grad()
def order_and_refit(
    model: PreTrainedModel,
    units: Mapping[str, Reader],
    sizes_read: Callable[[int, Unit], Sequence[int]],
    batches: Iterable[Batch],
) -> None:
    """Sort units by importance, and fit the weights that read them to every smaller number of inputs.

    Args:
        model: run without its output head, as often as products need to fit in memory.
        units: by the projection that reads them, such as ``layers.3.down``.
        sizes_read: from a layer and unit to the numbers of inputs.
        batches: `input_ids` and `attention_mask` of shape (rows, tokens).
    """
    given = list(batches)
    for portion in _portions(units):
        readers = {module: units[module][0].linears[READERS[units[module][1]]] for module in portion}
        # Of the inputs X of each, padding left out: Xᵀ X.
        products = listened(model, readers, given, lambda inputs: inputs.T @ inputs)
        for module, reader in readers.items():
            layer, unit = units[module]
            order = order_of(layer.importance(unit, products[module].diagonal().sqrt()))
            layer.permute(unit, order)
            inputs = spread(order, [reader.in_features // len(order)])
            sorted_products = products[module][inputs][:, inputs]
            reader.refits = {
                size: refitted(reader.matrix, sorted_products, size) for size in sizes_read(layer.index, unit)
            }


def _portions(units: Mapping[str, Reader]) -> Iterator[list[str]]:
    """Readers whose products fit in memory together."""
    portion: list[str] = []
    room = _BYTES_AT_ONCE
    for module, (layer, unit) in units.items():
        needed = 4 * layer.linears[READERS[unit]].in_features ** 2
        if portion and needed > room:
            yield portion
            portion, room = [], _BYTES_AT_ONCE
        portion.append(module)
        room -= needed
    if portion:
        yield portion


@torch.no_grad()
def refitted(weight: Tensor, products: Tensor, kept: int) -> Tensor:
    """The weight of the first `kept` inputs that comes closest to the whole one's outputs.

    Args:
        weight: shape (outputs, inputs).
        products: of the inputs, shape (inputs, inputs).
        kept: how many inputs are left.

    Returns:
        shape (outputs, kept), in the type of `weight`.
    """
    g, w = products.double(), weight.double()
    damped = g[:kept, :kept] + _DAMPING * g.diagonal().mean() * torch.eye(kept, dtype=g.dtype, device=g.device)
    share: Tensor = torch.linalg.solve(damped, g[:kept, kept:])  # of each input left out that each kept one stands for
    return (w[:, :kept] + w[:, kept:] @ share.T).to(weight.dtype)
