"""The cost of a decoder as a sum over its blocks: predicted by adding up, fitted to measurements. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from evaluators.operators.decoder import LayerSizes
from search_spaces import NasEngineError

Coefficients = npt.NDArray[np.float64]


class UnknownSizeError(NasEngineError, ValueError):
    """A block has a size that was not measured and lies between no two that were."""


@dataclass(frozen=True)
class BlockKnots:
    """The sizes of a block at which its cost is known; in between it is interpolated.

    Args:
        what: the size in words, such as ``MLP width``.
        sizes: from small to large.
        can_be_skipped: whether the cost of leaving the block out is known too.
    """

    what: str
    sizes: tuple[int, ...]
    can_be_skipped: bool

    def weights(self, size: int) -> Coefficients:
        """How much each knot counts at `size`: shape (1 + sizes,), the first for a block that is left out.

        Raises:
            UnknownSizeError: there is no knot for it.
        """
        row = np.zeros(1 + len(self.sizes))
        if size == 0 and self.can_be_skipped:
            row[0] = 1.0
            return row
        if size == 0:
            raise UnknownSizeError(f"is left out, but the cost of that was not measured ({self.what} 0)")
        if size in self.sizes:
            row[1 + self.sizes.index(size)] = 1.0
            return row
        for i, (low, high) in enumerate(pairwise(self.sizes)):
            if low < size < high:
                row[1 + i], row[2 + i] = (high - size) / (high - low), (size - low) / (high - low)
                return row
        raise UnknownSizeError(
            f"has {self.what} {size}, but costs are known from {self.sizes[0]} to {self.sizes[-1]} only"
        )


@dataclass(frozen=True)
class DecoderCosts:
    """``whole + Σ over layers of (attention(heads) + mlp(width) + absent, where both are left out)``.

    Args:
        whole: the cost with every block at its largest size.
        attention: knots of the attention block, in query heads.
        attention_costs: what an attention block costs more than at its largest size, at each knot: first when it is
            left out, then by size; mostly negative, the last one 0.
        mlp: knots of the MLP, in channels.
        mlp_costs: likewise.
        absent: what a layer without both blocks costs more than the sum of leaving out each; where all are without,
            one layer stays and does not have it.
    """

    whole: float
    attention: BlockKnots
    attention_costs: tuple[float, ...]
    mlp: BlockKnots
    mlp_costs: tuple[float, ...]
    absent: float

    def predict(self, layers: Sequence[LayerSizes]) -> float:
        """The cost of a decoder with these layers.

        Raises:
            UnknownSizeError: a size outside the measured ones; the layer is named.
        """
        row = terms(layers, self.attention, self.mlp)
        return float(row @ np.array([self.whole, *self.attention_costs, *self.mlp_costs, self.absent]))

    def to_json(self) -> dict[str, Any]:
        """The costs as JSON data."""

        def block(knots: BlockKnots, costs: tuple[float, ...]) -> dict[str, Any]:
            return {
                "size": knots.what,
                "skipped": costs[0] if knots.can_be_skipped else None,
                "more_than_largest": {str(size): cost for size, cost in zip(knots.sizes, costs[1:], strict=True)},
            }

        return {
            "whole": self.whole,
            "attention": block(self.attention, self.attention_costs),
            "mlp": block(self.mlp, self.mlp_costs),
            "absent": self.absent,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DecoderCosts:
        """The costs that `to_json` described."""

        def block(entry: Mapping[str, Any]) -> tuple[BlockKnots, tuple[float, ...]]:
            by_size = sorted((int(size), float(cost)) for size, cost in entry["more_than_largest"].items())
            if not by_size or by_size[0][0] < 1 or len(dict(by_size)) < len(by_size):
                raise ValueError(f"the sizes of a block are {[size for size, _ in by_size]}; give some, each once")
            skipped = entry["skipped"]
            knots = BlockKnots(entry["size"], tuple(size for size, _ in by_size), skipped is not None)
            return knots, (float(skipped or 0.0), *(cost for _, cost in by_size))

        return cls(float(data["whole"]), *block(data["attention"]), *block(data["mlp"]), float(data["absent"]))


def terms(layers: Sequence[LayerSizes], attention: BlockKnots, mlp: BlockKnots) -> Coefficients:
    """How often a decoder has each thing that costs: the whole once, attention's knots, the MLP's, absent layers.

    Raises:
        UnknownSizeError: as of `BlockKnots.weights`, with the layer.
    """
    counts = [np.zeros(1 + len(attention.sizes)), np.zeros(1 + len(mlp.sizes))]
    for i, layer in enumerate(layers):
        for count, knots, size in zip(counts, (attention, mlp), (layer.heads, layer.intermediate_size), strict=True):
            try:
                count += knots.weights(size)
            except UnknownSizeError as error:
                raise UnknownSizeError(f"layers.{i} {error}") from None
    absent = sum(layer.heads == layer.intermediate_size == 0 for layer in layers)
    absent -= absent == len(layers)  # one layer stays, without its blocks: no model has none
    return np.concatenate([[1.0], *counts, [absent]])


def fit_costs(
    decoders: Sequence[Sequence[LayerSizes]], costs: Sequence[float], attention: BlockKnots, mlp: BlockKnots
) -> DecoderCosts:
    """The costs of blocks that explain the costs of whole decoders best: least squares of the relative errors, among
    costs of which none is negative, nor that of what no block has; so that no decoder is predicted below 0.

    Where the decoders do not tell the costs of two sizes apart, they are taken to cost alike.

    Args:
        decoders: the layers of each, equally many.
        costs: one each, positive.
        attention: knots of the attention block.
        mlp: knots of the MLP.

    Raises:
        ValueError: decoders with different numbers of layers.
        UnknownSizeError: a decoder has a size outside the knots.
    """
    if len(depths := sorted({len(layers) for layers in decoders})) != 1:
        raise ValueError(f"the decoders have {' and '.join(map(str, depths)) or 'no'} layers; give equally deep ones.")
    rows = np.stack([terms(layers, attention, mlp) for layers in decoders])  # (decoders, terms)
    measured = np.array(costs, dtype=float)
    scale = float(np.median(measured))
    change = _of_positive_parts(depths[0], attention, mlp)
    # The last rows decide what the decoders leave open, and weigh too little to move anything else.
    system = np.concatenate([rows @ change * (scale / measured)[:, None], 1e-6 * change[1:]])
    parts, _ = nnls(system, np.concatenate([np.ones(len(rows)), np.zeros(len(change) - 1)]))
    whole, *fitted, absent = (scale * change @ parts).tolist()
    of_attention, of_mlp = fitted[: 1 + len(attention.sizes)], fitted[1 + len(attention.sizes) :]
    return DecoderCosts(whole, attention, tuple(of_attention), mlp, tuple(of_mlp), absent)


def _of_positive_parts(depth: int, attention: BlockKnots, mlp: BlockKnots) -> Coefficients:
    """What gives a decoder's terms from costs that are never negative, each in the place of its term: of what no block
    has, of attention and MLP left out and at each size, and of a layer without both; shape (terms, terms).
    """
    without_attention, without_mlp, neither = 1, 2 + len(attention.sizes), 3 + len(attention.sizes) + len(mlp.sizes)
    largest_attention, largest_mlp = without_mlp - 1, neither - 1
    change = np.eye(neither + 1)
    change[0, [largest_attention, largest_mlp]] = depth
    change[without_attention:without_mlp, largest_attention] -= 1
    change[without_mlp:neither, largest_mlp] -= 1
    change[neither, [without_attention, without_mlp]] = -1
    possible = np.ones(len(change))
    possible[without_attention], possible[without_mlp] = attention.can_be_skipped, mlp.can_be_skipped
    possible[neither] = attention.can_be_skipped and mlp.can_be_skipped
    changed: Coefficients = change * possible * possible[:, None]
    return changed
