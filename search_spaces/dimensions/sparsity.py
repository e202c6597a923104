"""How many of a layer's weights are zero. The gene holds the fraction that is kept, so that larger means larger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from search_spaces.dimensions.lora_rank import Sharing, projection_groups
from search_spaces.dimensions.weight_bits import ByProjection
from search_spaces.errors import SpaceError
from search_spaces.shape import PROJECTIONS
from search_spaces.template import SpaceTemplate


def sparsity(
    sparsities: Iterable[float],
    targets: Sequence[str] = PROJECTIONS,
    share: Sharing = "layer",
    layers_per_gene: int = 1,
) -> SpaceTemplate:
    """Elastic unstructured sparsity, switched from a database of precomputed versions.

    A gene is named ``density`` and its values are ``1 - sparsity``: the largest sub-network has no zeros.

    Args:
        sparsities: fractions of zeros, from 0 to below 1, such as ``(0, 0.25, 0.5)``.
        targets: the projections that change; all by default, as far as a model has them.
        share: ``"layer"`` gives a layer one value, ``"each"`` one for every target, and a sequence of groups one for
            every group.
        layers_per_gene: how many consecutive layers share a gene.

    Raises:
        SpaceError: a fraction out of range, no target, or groups that do not cover the targets.
    """
    given = tuple(sparsities)
    if not given or any(not 0 <= value < 1 for value in given):
        raise SpaceError(f"sparsities are {given}; give fractions from 0 to below 1.")
    densities = tuple(sorted({round(1.0 - value, 6) for value in given}))
    groups = projection_groups(tuple(targets), share)
    return SpaceTemplate((ByProjection("density", densities, groups, layers_per_gene),))
