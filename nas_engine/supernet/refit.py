"""Narrow sub-networks whose kept inputs stand in for those left out, in the frozen weight and in the adapter alike.

A prefix of `down` simply drops what the other channels added. Much of that can be had from the channels that are kept,
for channels of a layer are correlated. With the kept inputs K, those left out R, and ``G = Xᵀ X`` on calibration texts,
``S = (G_KK + λ I)⁻¹ G_KR`` says how far each kept input stands in for each other one; what read all inputs reads the
kept ones alone by ``M_K + M_R Sᵀ``. For the frozen weight that is the least-squares solution for the whole layer's
output, the optimal update of the Optimal Brain Surgeon (Hassibi and Stork, 1993) for a whole set of inputs, as ZipLM
(Kurtić et al., 2023, arXiv 2302.04089, section 3.1) prunes by; here once for every width of a super-network. Adapters
learn all the time, so they are read through S: what the largest sub-network learns, the narrow ones learn with it.
Which units are kept follows from the same: they go one after the other, always those that the rest replaces best.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nas_engine.supernet.elastic_units import Units
from nas_engine.supernet.layer import spread
from nas_engine.supernet.ordering import listened
from nas_engine.texts.batches import Batch

_STEPS = 96  # in which units are taken away, a few at a time: one by one, a wide layer would take hours
_DAMPING = 0.01  # of the mean square of an input, so that what calibration texts never tell apart stays as it was
_BYTES_AT_ONCE = 2**31  # of products, before the model runs again for the next ones


@torch.no_grad()
def find_shares(model: PreTrainedModel, units: Mapping[str, Units], batches: Iterable[Batch], reorder: bool) -> None:
    """Sort units by importance, and find what the first of them stand in for, for every smaller number of inputs.

    Adapters count as they are now: after training, shares are those of the trained network.

    Args:
        model: run without its output head, as often as products need to fit in memory; all of it must be active.
        units: by the projection that reads them, such as ``layers.3.down``.
        batches: `input_ids` and `attention_mask` of shape (rows, tokens).
        reorder: whether units are sorted; else they keep their order.
    """
    given = list(batches)
    for portion in _portions(units):
        readers = {module: units[module].reader for module in portion}
        # Of the inputs X of each, padding left out: Xᵀ X.
        products = listened(model, readers, given, lambda inputs: inputs.T @ inputs)
        for module, reader in readers.items():
            of_inputs = damped(products.pop(module))
            if reorder:
                of_inputs = _sorted(units[module], of_inputs)
            reader.shares = {kept: shares_of(of_inputs, kept) for kept in units[module].sizes}


def _sorted(units: Units, products: Tensor) -> Tensor:
    """Products in the order of importance in which `units` are put."""
    weight, width, sizes = units.reader.combined_weight(), units.inputs_each, units.sizes
    order = elimination_order(weight, products, width, min(sizes, default=0) // width)
    units.layer.permute(units.unit, order)
    inputs = spread(order, [width])
    return products[inputs][:, inputs]


def _portions(units: Mapping[str, Units]) -> Iterator[list[str]]:
    """Readers whose products fit in memory together."""
    portion: list[str] = []
    room = _BYTES_AT_ONCE
    for module, of_layer in units.items():
        needed = 4 * of_layer.reader.in_features**2
        if portion and needed > room:
            yield portion
            portion, room = [], _BYTES_AT_ONCE
        portion.append(module)
        room -= needed
    if portion:
        yield portion


@torch.no_grad()
def damped(products: Tensor) -> Tensor:
    """``G + λ I`` in fp64, for products G of shape (inputs, inputs)."""
    result = products.to(torch.float64, copy=True)
    result.diagonal().add_(_DAMPING * result.diagonal().mean())
    return result


@torch.no_grad()
def elimination_order(weight: Tensor, products: Tensor, width: int, fewest: int) -> Tensor:
    """Units in the order in which they should be kept, shape (units,): those that the others replace best come last.

    Without a unit u, the refitted weight's output is off by ``tr(W_u (G⁻¹)_uu⁻¹ W_uᵀ)``. The units that matter least by
    that are taken away, the others take over what they did, and so on.

    Args:
        weight: shape (outputs, inputs).
        products: of the inputs, `damped`, shape (inputs, inputs).
        width: inputs of a unit, side by side.
        fewest: units that are always kept, whose own order is by the last step's errors.
    """
    w, inverse = weight.double(), torch.linalg.inv(products)
    left = torch.arange(len(products) // width, device=weight.device)
    fewest = max(1, fewest)
    at_once = max(1, len(left) // _STEPS)
    gone: list[Tensor] = []
    while len(left) > fewest:
        least = _errors_without(w, inverse, width).argsort(stable=True)[: min(at_once, len(left) - fewest)]
        gone.append(left[least].flip(0))
        kept = torch.ones(len(left), dtype=torch.bool, device=weight.device)
        kept[least] = False
        out, stay = (spread(units, [width]) for units in (least, kept.nonzero().flatten()))
        share = torch.linalg.solve(inverse[out][:, out], inverse[out][:, stay])
        w = w[:, stay] - w[:, out] @ share
        inverse = inverse[stay][:, stay] - inverse[stay][:, out] @ share
        left = left[kept]
    last = left[_errors_without(w, inverse, width).argsort(descending=True, stable=True)]
    return torch.cat([last, *reversed(gone)])


def _errors_without(weight: Tensor, inverse: Tensor, width: int) -> Tensor:
    """Of each unit, the output error when the others stand in for it, shape (units,)."""
    units = len(inverse) // width
    own = inverse.view(units, width, units, width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # (units, width, width)
    columns = weight.T.view(units, width, -1)
    # LAPACK takes matrices one by one: of thousands of single numbers it makes minutes where cores are shared.
    solved = columns / own if width == 1 else torch.linalg.solve(own, columns)
    errors: Tensor = (columns * solved).sum((1, 2))
    return errors


@torch.no_grad()
def shares_of(products: Tensor, kept: int) -> Tensor:
    """How far each kept input stands in for each one left out, such that any weight's outputs stay closest.

    Args:
        products: of the inputs, `damped`, shape (inputs, inputs).
        kept: how many of the first inputs are left.

    Returns:
        shape (kept, inputs - kept), in fp32.
    """
    shares: Tensor = torch.linalg.solve(products[:kept, :kept], products[:kept, kept:])
    return shares.float()
