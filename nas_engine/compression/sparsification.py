"""A model made sparse in place, layer by layer, and what became of each layer.

The zeros are the mask: an adapter leaves the frozen weights alone, and `SuperNetwork` merges with respect to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, get_args

import pandas as pd
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from nas_engine.compression.calibration import Observer, calibrated_layers, require_complete
from nas_engine.compression.kept_weights import refitted
from nas_engine.compression.observers import Hessians, InputNorms
from nas_engine.compression.sparsity import magnitude_mask, pattern_of, wanda_mask
from nas_engine.errors import CompressionError
from nas_engine.families.descriptions import family_of
from nas_engine.families.plain import ElasticProjection, require_plain
from nas_engine.texts.batches import Batch

PruningMethod = Literal["wanda", "magnitude"]


def sparsify(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    sparsity: float | str = 0.5,
    method: PruningMethod = "wanda",
    refit: bool = False,
) -> pd.DataFrame:
    """Set weights of every projection of `model` to zero; embeddings and the output head stay dense.

    The calibration data passes through the layers that are already pruned (Wanda, arXiv 2306.11695, section 3).

    Args:
        model: of a known family; is changed in place.
        batches: calibration texts as `input_ids` and `attention_mask` of shape (rows, tokens).
        sparsity: fraction of zeros, from 0 to below 1, or ``"2:4"`` or ``"4:8"``.
        method: ``"wanda"``, or ``"magnitude"`` as a baseline, which looks at no data.
        refit: whether the weights that are kept make up for the zeros, by least squares on the calibration data; the
            mask is the same. False leaves them as they were, as Wanda's paper does.

    Returns:
        `sparsity_report` of the model.

    Raises:
        CompressionError: the calibration data is empty, or the pattern does not fit a layer.
        FamilyError: the model's family is not supported.
    """
    if method not in get_args(PruningMethod):
        raise CompressionError(f"method is {method!r}; choose one of {', '.join(get_args(PruningMethod))}.")
    pattern = pattern_of(sparsity)
    require_plain(model, elastic=True)
    require_complete(model)
    for layer in calibrated_layers(model, batches):
        norms, products = InputNorms(), Hessians()
        observers: list[Observer] = [*([norms] if method == "wanda" else []), *([products] if refit else [])]
        if observers:
            layer.observe(*observers)
        for name, linear in layer.projections.items():
            weight = matrix_of(linear)
            keep = wanda_mask(weight, norms[name], pattern) if method == "wanda" else magnitude_mask(weight, pattern)
            weight.copy_(refitted(weight, keep, products[name]) if refit else weight * keep)
    return sparsity_report(model)


def sparsity_report(model: PreTrainedModel) -> pd.DataFrame:
    """One row a projection: `layer`, `projection`, `weights`, `zeros` and the fraction `sparsity`.

    Args:
        model: of a known family, plain or a super-network's.
    """
    rows = [
        {
            "layer": index,
            "projection": name,
            "weights": weight.numel(),
            "zeros": int((weight == 0).sum()),
            "sparsity": float((weight == 0).float().mean()),
        }
        for index, name, weight in projections_of(model)
    ]
    return pd.DataFrame(rows)


def projections_of(model: PreTrainedModel) -> Iterator[tuple[int, str, Tensor]]:
    """Layer, projection and weight as (outputs, inputs), of every projection of `model`."""
    family = family_of(model)
    for index, layer in enumerate(model.get_submodule(family.layers).children()):
        for name, path in family.projections.items():
            yield index, name, matrix_of(layer.get_submodule(path))


def matrix_of(linear: nn.Module) -> Tensor:
    """The weight of a linear layer, elastic or not, as (outputs, inputs): a view without gradient, to be written to."""
    weight: Tensor = linear.weight.detach()  # type: ignore[operator]
    transposed = linear.transposed if isinstance(linear, ElasticProjection) else isinstance(linear, Conv1D)
    return weight.T if transposed else weight
