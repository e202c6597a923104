"""Narrow sub-networks whose kept inputs stand in for those left out, in the frozen weight and in the adapter alike.

A prefix of `down` simply drops what the other channels added. Much of that can be had from the channels that are kept,
for channels of a layer are correlated. With the kept inputs K, those left out R, and ``G = Xᵀ X`` on calibration texts,
``S = (G_KK + λ I)⁻¹ G_KR`` says how far each kept input stands in for each other one; what read all inputs reads the
kept ones alone by ``M_K + M_R Sᵀ``. For the frozen weight that is the least-squares solution for the whole layer's
output, the optimal update of the Optimal Brain Surgeon (Hassibi and Stork, 1993) for a whole set of inputs, as ZipLM
(Kurtić et al., 2023, arXiv 2302.04089, section 3.1) prunes by; here once for every width of a super-network. Adapters
learn all the time, so they are read through S: what the largest sub-network learns, the narrow ones learn with it.
Which units are kept follows from the same: they go one after the other, always those that the rest replaces best.

One layer after the other, in one pass of the model; what a layer's fit needs is gone when the next begins. Everything
comes from Cholesky factors in the products' own precision, and only where that does not do, in fp64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nas_engine.compression.calibration import calibrated_layers
from nas_engine.compression.observers import Products
from nas_engine.supernet.elastic_units import Units
from nas_engine.supernet.layer import spread
from nas_engine.texts.batches import Batch
from search_spaces import ModuleName

T = TypeVar("T")
_STEPS = 96  # in which units are taken away, a few at a time: one by one, a wide layer would take hours
_COPIED = 8  # of what is left, so much is taken away before it is copied together
_DAMPING = 0.01  # of the mean square of an input, so that what calibration texts never tell apart stays as it was


@torch.no_grad()
def find_shares(model: PreTrainedModel, units: Mapping[str, Units], batches: Iterable[Batch], reorder: bool) -> None:
    """Sort units by importance, and find what the first of them stand in for, for every smaller number of inputs.

    Adapters count as they are now: after training, shares are those of the trained network.

    Args:
        model: run once, a layer at a time, without its output head; all of it must be active.
        units: by the projection that reads them, such as ``layers.3.down``.
        batches: `input_ids` and `attention_mask` of shape (rows, tokens).
        reorder: whether units are sorted; else they keep their order.

    Raises:
        CompressionError: there is no token in `batches`, or what a projection reads is not finite.
    """
    by_layer: dict[int, dict[str, Units]] = {}
    for module, of_layer in units.items():
        index, name = ModuleName.parse(module)
        by_layer.setdefault(index, {})[name] = of_layer
    for layer in calibrated_layers(model, batches):
        elastic = by_layer.get(layer.index, {})
        products = {name: Products() for name in elastic}
        layer.pass_on(products)
        for name, of_layer in elastic.items():
            of_inputs = damped(products.pop(name).total)
            if reorder:
                of_inputs = _sorted(of_layer, of_inputs)
            of_layer.reader.shares = {}  # the old ones are not held beside the new
            of_layer.reader.shares = shares_of(of_inputs, of_layer.sizes)


def _sorted(units: Units, products: Tensor) -> Tensor:
    """Products in the order of importance in which `units` are put."""
    weight, width, sizes = units.reader.combined_weight(), units.inputs_each, units.sizes
    order = elimination_order(weight, products, width, min(sizes, default=0) // width)
    units.layer.permute(units.unit, order)
    inputs = spread(order, [width])
    return products[inputs][:, inputs]


@torch.no_grad()
def damped(products: Tensor) -> Tensor:
    """``G + λ I``, in place, for products G of shape (inputs, inputs)."""
    products.diagonal().add_(_DAMPING * products.diagonal().mean())
    return products


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
    return _in_enough_precision(lambda given: _elimination_order(weight.to(given), given, width, fewest), products)


@torch.no_grad()
def shares_of(products: Tensor, sizes: Iterable[int]) -> dict[int, Tensor]:
    """How far the first inputs stand in for those that come after them, such that any weight's outputs stay closest.

    Args:
        products: of the inputs, `damped`, shape (inputs, inputs).
        sizes: how many of the first inputs may be left.

    Returns:
        by size, from the largest on, what the step from the next larger size needs, as
        `nas_engine.supernet.shares.Shares` has it.
    """
    kept = sorted(sizes, reverse=True)
    return _in_enough_precision(lambda given: _shares_of(given, kept), products) if kept else {}


def workspace(inputs: int, outputs: int) -> int:
    """Bytes that ordering and fitting one reader take at most, in fp32.

    Products, a factor and the inverse of it beside the weight; or products, the inverse and what was taken away of it,
    at most a quarter of it twice, beside the weight as it was, as it is and as it will be.
    """
    square, weight = inputs**2, inputs * outputs
    return 4 * max(3 * square + weight, 5 * square // 2 + 3 * weight)


def solving(inputs: int, tokens: int) -> float:
    """Additions and multiplications of ordering and fitting one reader of so many inputs.

    Half of ``Xᵀ X``; a factor, an inverse, an elimination and the shares: a third, two, a third and a half of a cube.
    """
    return float(tokens) * inputs**2 + 11 / 6 * float(inputs) ** 3


def _shares_of(products: Tensor, sizes: list[int]) -> dict[int, Tensor]:
    most = sizes[0]
    factor = torch.linalg.cholesky(products[:most, :most])  # L of G_KK = L Lᵀ, whose corners are those of fewer inputs
    found = {most: torch.cholesky_solve(products[:most, most:], factor)}
    for wider, kept in pairwise(sizes):
        # G_KK⁻¹ G_KR = L_KK⁻ᵀ L_RKᵀ
        corner, below = factor[:kept, :kept], factor[kept:wider, :kept]
        found[kept] = torch.linalg.solve_triangular(corner.T, below.T, upper=True)
    return found


def _elimination_order(weight: Tensor, products: Tensor, width: int, fewest: int) -> Tensor:
    """As `elimination_order`, by a Cholesky factor ``CᵀC`` of the inverse that grows by the rows of what is taken away.

    The inverse itself stays as it is: of what is left it holds ``H - CᵀC``, of which a step needs a few rows alone.
    Inputs are rows here, so that those of units that are gone leave by copies of whole rows, and only now and then:
    to leave them out at every step took longer than all arithmetic. What they compute until then nobody reads.
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(products))
    units = len(products) // width
    present = torch.arange(units, device=weight.device)  # those whose rows are here
    gone = torch.zeros(units, dtype=torch.bool, device=weight.device)  # of these
    own = inverse.view(units, width, units, width).diagonal(dim1=0, dim2=2).permute(2, 0, 1).clone()
    w = weight.T.clone(memory_format=torch.contiguous_format)  # (inputs, outputs), changed in place
    fewest, at_once = max(1, fewest), max(1, units // _STEPS)
    left, taken = units, 0
    factor = inverse.new_empty(len(inverse), 0)  # (inputs, inputs taken away), with room for more of these
    removed: list[Tensor] = []
    while left > fewest:
        if taken == factor.shape[1]:
            stay = (~gone).nonzero().flatten()
            inputs = spread(stay, [width])
            present, gone, own = present[stay], gone[stay], own[stay]
            w = w if len(w) == len(inputs) else w.index_select(0, inputs)
            steps = max(1, left // _COPIED // at_once)
            longer = factor.new_empty(len(inputs), taken + steps * at_once * width)
            longer[:, :taken] = factor[inputs]
            factor = longer
        count = min(at_once, left - fewest)
        least = _errors_without(w, own).masked_fill_(gone, torch.inf).argsort(stable=True)[:count]
        removed.append(present[least].flip(0))
        gone[least] = True
        left -= count
        out, inputs = spread(least, [width]), spread(present, [width])
        rows = inverse[inputs[out]].index_select(1, inputs)
        rows.addmm_(factor[out, :taken], factor[:, :taken].T, alpha=-1)
        corner = torch.linalg.cholesky(rows[:, out])
        new = torch.linalg.solve_triangular(corner, rows, upper=False)  # (inputs that go, inputs)
        moved = torch.linalg.solve_triangular(corner, w[out], upper=False)  # (inputs that go, outputs)
        w.addmm_(new.T, moved, alpha=-1)
        of_units = new.view(len(new), len(present), width).transpose(0, 1)  # (units, inputs that go, width)
        own -= of_units.transpose(1, 2) @ of_units
        own[least] = torch.eye(width, dtype=own.dtype, device=own.device)  # nothing is left of them to divide by
        factor[:, taken : taken + len(new)] = new.T
        taken += len(new)
    errors = _errors_without(w, own).masked_fill_(gone, -torch.inf)
    last = present[errors.argsort(descending=True, stable=True)[:left]]
    return torch.cat([last, *reversed(removed)])


def _errors_without(weight: Tensor, own: Tensor) -> Tensor:
    """Of each unit, the output error when the others stand in for it, shape (units,).

    Args:
        weight: shape (inputs, outputs).
        own: the inverse's block of each unit, shape (units, width, width).
    """
    units, width, _ = own.shape
    if width == 1:
        # LAPACK takes matrices one by one: of thousands of single numbers it makes minutes where cores are shared.
        lengths: Tensor = torch.linalg.vector_norm(weight, dim=1)
        return lengths.square_().div_(own.flatten())
    rows = weight.view(units, width, -1)
    errors: Tensor = (rows * torch.linalg.solve(own, rows)).sum((1, 2))
    return errors


def _in_enough_precision(solve: Callable[[Tensor], T], products: Tensor) -> T:
    """What `solve` makes of `products`, in fp64 where their own precision makes them singular."""
    try:
        return solve(products)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        if products.dtype == torch.float64:
            raise
    return solve(products.double())
