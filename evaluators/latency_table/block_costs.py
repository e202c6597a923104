"""The cost of a decoder as a sum over its blocks: predicted by adding up, fitted to measurements. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluators.operators.decoder import LayerSizes
from search_spaces import NasEngineError

Row = npt.NDArray[np.float64]


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

    def weights(self, size: int) -> Row:
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
        absent: what a layer without both blocks costs more than the sum of leaving out each.
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


def terms(layers: Sequence[LayerSizes], attention: BlockKnots, mlp: BlockKnots) -> Row:
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
    return np.concatenate([[1.0], *counts, [absent]])


def fit_costs(
    decoders: Sequence[Sequence[LayerSizes]], costs: Sequence[float], attention: BlockKnots, mlp: BlockKnots
) -> DecoderCosts:
    """The costs of blocks that explain the costs of whole decoders best: least squares of the relative errors.

    Where the decoders do not tell two terms apart, their smallest possible values are taken.

    Args:
        decoders: the layers of each.
        costs: one each, positive.
        attention: knots of the attention block.
        mlp: knots of the MLP.

    Raises:
        UnknownSizeError: a decoder has a size outside the knots.
    """
    rows = np.stack([terms(layers, attention, mlp) for layers in decoders])  # (decoders, terms)
    measured = np.array(costs, dtype=float)
    free = np.ones(rows.shape[1], dtype=bool)
    free[[1 + len(attention.sizes), -2]] = False  # the largest sizes: what others are compared with
    fitted = np.zeros(rows.shape[1])
    fitted[free] = np.linalg.lstsq(rows[:, free] / measured[:, None], np.ones(len(measured)), rcond=None)[0]
    of_attention, of_mlp = np.split(fitted[1:-1], [1 + len(attention.sizes)])
    return DecoderCosts(
        float(fitted[0]), attention, tuple(of_attention.tolist()), mlp, tuple(of_mlp.tolist()), float(fitted[-1])
    )
