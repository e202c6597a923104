"""A frozen linear layer, of which a prefix of the inputs and outputs is active.

No channel is masked or copied: active weights are views of the first rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from nas_engine.compression.grid import Grid, quantize
from nas_engine.compression.packing import pack, packed_bytes, widened
from nas_engine.families.plain import ElasticProjection
from nas_engine.supernet.made_weight import Maker, product
from nas_engine.supernet.shares import fitted, read_through, stored

# What a switch of sub-networks sets, thousands of times a search.
_SIZES = frozenset({"active_in", "active_out", "active_parts", "active_rank", "_active_parts", "active_rows"})


class FrozenLinear(ElasticProjection):
    """``Y = X Wᵀ + b`` on prefix slices of W and b.

    The frozen layer keeps its parameters under their own names. A fused layer, whose outputs are several projections'
    one after the other, has a prefix of each of them active.

    Args:
        base: the layer to freeze; its parameters are taken over, not copied. GPT-2's Conv1D is one too.
        parts: outputs of each projection of a fused layer; None for a layer that is one projection.
        grid: the grid that the weight is quantized on; None where it is in floating point.

    Attributes:
        weight: shape (outputs, inputs), or (inputs, outputs) where `transposed`; integers where `packed`.
        active_in: how many inputs are active.
        active_rows: the outputs that are, as slices.
    """

    bias: nn.Parameter | None  # (outputs,)

    def __init__(
        self, base: nn.Linear | Conv1D, parts: tuple[int, ...] | None = None, grid: Grid | None = None
    ) -> None:
        super().__init__()
        self.grid = grid
        self.transposed = isinstance(base, Conv1D)
        self.packed = False  # whether `weight` is its integers
        self.weight = base.weight
        self.register_parameter("bias", base.bias)
        for parameter in base.parameters():
            parameter.requires_grad_(False)
        self.out_features, self.in_features = self.matrix.shape
        self.parts = parts or (self.out_features,)
        self.active_in = self.in_features
        self.active_rows: tuple[slice, ...] = ()
        self.active_parts = self.parts
        self._shares: dict[int, Tensor] = {}  # by active inputs, the most first
        # The frozen weight with these, each (outputs, active_in), in half precision where that is close enough.
        self._refits: dict[int, Tensor] = {}
        self._sparsity: tuple[Any, float] = (None, 0.0)  # counted once for each weight and size

    def __setattr__(self, name: str, value: Any) -> None:
        # Sizes skip torch's search for parameters and modules, which costs more than everything else in a switch.
        if name in _SIZES:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def active_parts(self) -> tuple[int, ...]:
        """How many outputs of each part are active."""
        return self._active_parts

    @active_parts.setter
    def active_parts(self, sizes: tuple[int, ...]) -> None:
        self._active_parts = sizes
        starts = accumulate(self.parts[:-1], initial=0)
        # Adjacent outputs in one slice: a fused layer at full width is one product, as the original's.
        self.active_rows = (
            (slice(0, self.out_features),)
            if sizes == self.parts
            else tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
        )

    @property
    def active_out(self) -> int:
        """How many outputs are active."""
        return sum(self._active_parts)

    @active_out.setter
    def active_out(self, size: int) -> None:
        self.active_parts = (size,)

    @property
    def matrix(self) -> Tensor:
        """The frozen weight as (outputs, inputs): a view, but made of its integers where it is packed."""
        if self.packed:
            return self._widened(slice(None), self.in_features)
        return self.weight.T if self.transposed else self.weight

    @property
    def dtype(self) -> torch.dtype:
        """What the frozen weight computes in."""
        return self.weight.dtype if self.grid is None or not self.packed else self.grid.scale.dtype

    @torch.no_grad()
    def pack(self, where: str, check: bool = True) -> None:
        """Hold the frozen weight as the integers that it is on its grid; the layer computes the same.

        Args:
            where: what an error calls it.
            check: whether the weight lies on its grid.

        Raises:
            CompressionError: it lies beside its grid.
        """
        if self.packed or self.grid is None:
            return
        matrix, bits = self.matrix, self.grid.settings.bits
        held = packed_bytes(matrix, self.grid, where) if check else pack(quantize(matrix, self.grid), bits, where)
        self.weight = nn.Parameter(held, requires_grad=False)
        self.packed = True

    def _widened(self, rows: slice, inputs: int) -> Tensor:
        assert self.grid is not None
        return widened(self.weight, self.grid, rows, inputs)

    def frozen_outputs(self, x: Tensor) -> Tensor:
        """What the frozen layer gives for inputs of shape (…, active_in): shape (…, active_out)."""
        biases = [None if self.bias is None else self.bias[rows] for rows in self.active_rows]
        makers = self._makers()
        if makers is None:
            weight = self._reading_weight
            outputs = [F.linear(x, weight[rows], bias) for rows, bias in zip(self.active_rows, biases, strict=True)]
        else:
            outputs = [product(x, make, bias) for make, bias in zip(makers, biases, strict=True)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)

    def _makers(self) -> list[Maker] | None:
        """What makes the active weight, part by part; None where it is held as it computes."""
        if self.packed:
            assert self.grid is not None, "weights are packed by their grid"
            # Of what there is now: another sub-network may be active when gradients are asked for.
            held, grid, inputs = self.weight, self.grid, self.active_in
            return [partial(widened, held, grid, rows, inputs) for rows in self.active_rows]
        fitted = self._fitted
        if fitted is not None and fitted.dtype != self.weight.dtype:
            return [partial(fitted[rows].to, self.weight.dtype) for rows in self.active_rows]
        return None

    @property
    def active_weight(self) -> Tensor:
        """The frozen weight's active slice, shape (active_out, active_in); a view unless parts are cut."""
        return self._active_outputs(self._reading_weight)

    @property
    def _reading_weight(self) -> Tensor:
        """The frozen weight of the active inputs, shape (outputs, active_in): a prefix, or what was fitted to them."""
        if self.packed:
            return self._widened(slice(None), self.active_in)
        fitted = self._fitted
        return self.matrix[:, : self.active_in] if fitted is None else fitted.to(self.weight.dtype)

    @property
    def _fitted(self) -> Tensor | None:
        """What was fitted to the active inputs, as it is held; None where they are a prefix."""
        return self._refits.get(self.active_in)

    def _reading(self, matrix: Tensor) -> Tensor:
        """A matrix of shape (…, inputs) for the active inputs alone, which stand in for the others where fitted."""
        return read_through(matrix, self._shares, self.active_in)

    @property
    def active_bias(self) -> Tensor | None:
        """The bias's active slice, shape (active_out,)."""
        return None if self.bias is None else self._active_outputs(self.bias)

    def _active_outputs(self, tensor: Tensor) -> Tensor:
        slices = [tensor[rows] for rows in self.active_rows]
        return slices[0] if len(slices) == 1 else torch.cat(slices)

    @property
    def active_grid(self) -> Grid | None:
        """The grid of `active_weight`.

        Raises:
            CompressionError: the active inputs are no whole number of groups.
        """
        return None if self.grid is None else self.grid.sliced(self.active_rows, self.active_in)

    def set_weight(self, weight: Tensor, grid: Grid | None) -> None:
        """Put another frozen weight of shape (out_features, in_features) in place; nothing is copied."""
        self.packed = False
        self.weight.data = weight.T if self.transposed else weight
        self.grid = grid
        self.shares = {}

    @property
    def shares(self) -> Mapping[int, Tensor]:
        """How far kept inputs stand in for those left out: by how many are kept, from the most on, their shares in what
        the next wider size keeps besides, each of shape (kept, left out), in half precision.

        What reads an input that is left out, in the frozen weight and in the adapter, reads the kept ones by their
        shares in it; see `nas_engine.supernet.refit`. Without any, active weights are plain prefixes.
        """
        return self._shares

    @shares.setter
    def shares(self, shares: Mapping[int, Tensor]) -> None:
        self._refits = {}  # before those that come, not beside them
        self._shares = stored(shares, self.in_features)
        self._refits = fitted(self.matrix, self._shares)
        self._sparsity = (None, 0.0)

    @property
    def fitted_tensors(self) -> list[Tensor]:
        """What is held beside weight and adapter for narrower widths: their shares, and the weight fitted to each."""
        return [*self._shares.values(), *self._refits.values()]

    @property
    def fits(self) -> Mapping[int, Tensor]:
        """The frozen weight fitted to each narrower width, by active inputs, each of shape (outputs, active inputs)."""
        return dict(self._refits)

    def set_fit(self, active_in: int, weight: Tensor) -> None:
        """Hold one of `fits` in another tensor, as where it is spread over processes."""
        self._refits[active_in] = weight

    @property
    def sparsity(self) -> float:
        """Fraction of zeros in the active slice of the frozen weight."""
        key = (self.weight.data_ptr(), self.weight._version, self.active_parts, self.active_in)
        if self._sparsity[0] != key:
            self._sparsity = key, float((self.active_weight == 0).float().mean())
        return self._sparsity[1]

    def outline_of_weight(self) -> Tensor:
        """The whole frozen weight as the original layer has it, without numbers."""
        shape = (self.in_features, self.out_features) if self.transposed else (self.out_features, self.in_features)
        return torch.empty(shape, dtype=self.dtype, device="meta")

    def outline(self) -> nn.Linear | Conv1D:
        """A plain layer of the active size and the original's class, without weights."""
        with torch.device("meta"):
            layer: nn.Linear | Conv1D = (
                Conv1D(self.active_out, self.active_in)
                if self.transposed
                else nn.Linear(self.active_in, self.active_out, bias=self.bias is not None)
            )
        return layer.to(self.dtype)

    @property
    def active_parameters(self) -> int:
        """Parameters of the active weight and bias."""
        return self.active_out * (self.active_in + (self.bias is not None))

    @torch.no_grad()
    def permute_outputs(self, order: Tensor) -> None:
        """Reorder the output channels; `order` holds the current indices in their new order."""
        for tensor in (self.weight if self.packed else self.matrix, self.bias):
            if tensor is not None:
                tensor.copy_(tensor[order])
        self.shares = self._shares  # the fitted weights follow
        if self.grid is not None:
            self.grid = self.grid.reordered(order)

    @torch.no_grad()
    def permute_inputs(self, order: Tensor) -> None:
        """Reorder the input channels; what the first of them stand in for is forgotten.

        Raises:
            ValueError: they are in groups on a grid.
        """
        if self.grid is not None and not torch.equal(order.cpu(), torch.arange(self.in_features)):
            raise ValueError(
                "the inputs of a quantized layer are in groups that share a scale, so their order is fixed; order the "
                "model before it is quantized (nas_engine.jobs.recipes.ordered)."
            )
        # Packed inputs are on a grid, and keep their order.
        if not self.packed:
            matrix = self.matrix
            matrix.copy_(matrix[:, order])
        self.shares = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenLinear:
        # A grid and shares are data, no parameters, but they move with the weight, and a grid is cast with it.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.shares = {kept: share.to(self.weight.device) for kept, share in self._shares.items()}
        if self.grid is not None:
            self.grid = replace(self.grid, scale=fn(self.grid.scale), zero_point=fn(self.grid.zero_point))
        return self
