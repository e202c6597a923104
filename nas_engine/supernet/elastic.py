"""A linear layer with a low-rank adapter, of which a prefix of the inputs, outputs and ranks is active.

No channel is masked or copied: active weights are views of the first rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from nas_engine.compression.grid import Grid, dequantize, quantize
from nas_engine.compression.packing import pack, packed_bytes, widened
from nas_engine.errors import ExportError
from nas_engine.families.plain import ElasticProjection
from nas_engine.supernet.adapter_mode import AdapterMode, Plain
from nas_engine.supernet.made_weight import product
from nas_engine.supernet.shares import fitted, read_through, stored

# What a switch of sub-networks sets, thousands of times a search.
_SIZES = frozenset({"active_in", "active_out", "active_parts", "active_rank", "_active_parts", "_rows"})


class ElasticLinear(ElasticProjection):
    """``Y = X Wᵀ + b + s · drop(X) Aᵀ Bᵀ`` on prefix slices, with ``s = alpha / r_max`` at every active rank.

    The frozen layer keeps its parameters under their own names, so that a state dict without the adapter is the
    original layer's. Mode A moves the rank alone, Mode B inputs or outputs in step with the frozen weight's
    (LoNAS, section 3). A fused layer, whose outputs are several projections' one after the other, has a prefix of
    each of them active. How weight and adapter combine on a sparse or quantized base is a `AdapterMode`.

    Args:
        base: the layer to freeze and adapt; its parameters are taken over, not copied. GPT-2's Conv1D is one too.
        rank: the adapter's largest rank r_max; 0 for a layer whose width alone is elastic.
        alpha: LoRA's alpha.
        dropout: probability on the adapter's input, in training.
        generator: draws the initial `lora_A`; `lora_B` starts at zero.
        parts: outputs of each projection of a fused layer; None for a layer that is one projection.
        adapter_mode: how the adapter acts on the frozen weight.
        grid: the grid that the frozen weight is quantized on; None where it is in floating point.

    Raises:
        ValueError: dropout where weight and adapter act as one.
    """

    bias: nn.Parameter | None  # (outputs,)
    lora_A: nn.Parameter | None  # (rank, inputs)
    lora_B: nn.Parameter | None  # (outputs, rank)

    def __init__(
        self,
        base: nn.Linear | Conv1D,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
        parts: tuple[int, ...] | None = None,
        adapter_mode: AdapterMode = Plain(),  # noqa: B008  # without state
        grid: Grid | None = None,
    ) -> None:
        super().__init__()
        if dropout and not adapter_mode.beside:
            raise ValueError(
                f"dropout is {dropout}, but with adapter_mode={adapter_mode.name!r} weight and adapter are one: what "
                "training computed would differ from what is merged; set dropout to 0."
            )
        self.adapter_mode, self.grid = adapter_mode, grid
        self.transposed = isinstance(base, Conv1D)
        self.packed = False  # whether `weight` is its integers
        self.weight = base.weight  # (outputs, inputs); (inputs, outputs) where transposed; integers where packed
        self.register_parameter("bias", base.bias)
        for parameter in base.parameters():
            parameter.requires_grad_(False)
        self.out_features, self.in_features = self.matrix.shape
        self.rank = rank
        self.parts = parts or (self.out_features,)
        self.active_in, self.active_rank = self.in_features, rank
        self.active_parts = self.parts
        self.scaling = alpha / rank if rank else 0.0
        self._shares: dict[int, Tensor] = {}  # by active inputs, the most first
        # The frozen weight with these, each (outputs, active_in), in half precision where that is close enough.
        self._refits: dict[int, Tensor] = {}
        self._sparsity: tuple[Any, float] = (None, 0.0)  # counted once for each weight and size
        self.dropout = nn.Dropout(dropout)
        if rank:
            lora_A = torch.empty(rank, self.in_features)
            nn.init.kaiming_uniform_(lora_A, a=math.sqrt(5), generator=generator)
            # Adapters train in fp32 on any base, as PEFT's do: steps of 1e-5 vanish in half precision.
            self.lora_A = nn.Parameter(lora_A.to(base.weight.device))
            self.lora_B = nn.Parameter(lora_A.new_zeros(self.out_features, rank, device=base.weight.device))
        else:
            self.register_parameter("lora_A", None)
            self.register_parameter("lora_B", None)

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
        self._rows = (
            (slice(0, self.out_features),)
            if sizes == self.parts
            else tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
        )

    def set_rank(self, rank: int) -> None:
        """Make the first `rank` ranks active."""
        self.active_rank = rank

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

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, active_in) to (…, active_out)."""
        if self.lora_A is not None and not self.adapter_mode.beside:
            return F.linear(x, self.combined_weight().to(x.dtype), self.active_bias)
        if self._merges(x):
            return F.linear(x, self._added_weight(), self.active_bias)
        y = self._frozen_outputs(x)
        if self.lora_A is None or self.lora_B is None:
            return y
        lora_A = self._active_lora_A.to(x.dtype)
        lora_B = self._active_lora_B.to(x.dtype)
        hidden = F.linear(self.dropout(x), lora_A)  # (…, active_rank)
        # One product that adds, instead of a product, a scaling and a sum: two fewer passes over the outputs.
        return torch.addmm(y.flatten(0, -2), hidden.flatten(0, -2), lora_B.T, alpha=self.scaling).view(y.shape)

    def _frozen_outputs(self, x: Tensor) -> Tensor:
        """What the frozen layer gives, shape (…, active_out)."""
        biases = [None if self.bias is None else self.bias[rows] for rows in self._rows]
        fitted = self._fitted
        if self.packed:
            assert self.grid is not None, "weights are packed by their grid"
            # Of what there is now: another sub-network may be active when gradients are asked for.
            held, grid, inputs = self.weight, self.grid, self.active_in
            makers = [partial(widened, held, grid, rows, inputs) for rows in self._rows]
        elif fitted is not None and fitted.dtype != self.weight.dtype:
            makers = [partial(fitted[rows].to, self.weight.dtype) for rows in self._rows]
        else:
            weight = self._reading_weight
            outputs = [F.linear(x, weight[rows], bias) for rows, bias in zip(self._rows, biases, strict=True)]
            return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
        outputs = [product(x, make, bias) for make, bias in zip(makers, biases, strict=True)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)

    def _merges(self, x: Tensor) -> bool:
        """Whether adding the adapter to the weight costs less than applying it to every token of `x`.

        Only where nothing is learned, and in fp32, in which both ways agree to rounding, or where autocast rounds both.
        """
        if self.lora_A is None or self.training or torch.is_grad_enabled():
            return False
        if x.dtype != torch.float32 and not torch.is_autocast_enabled(x.device.type):
            return False
        tokens = x.numel() // x.shape[-1]
        # Merging moves the whole weight besides its arithmetic: it has to be twice as cheap.
        return tokens * (self.active_in + self.active_out) > 2 * self.active_in * self.active_out

    def _added_weight(self) -> Tensor:
        """``W + s · B A``, shape (active_out, active_in)."""
        lora_A = self._active_lora_A
        return torch.addmm(self.active_weight.to(lora_A), self._active_lora_B, lora_A, alpha=self.scaling)

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

    @property
    def _active_lora_A(self) -> Tensor:
        assert self.lora_A is not None
        return self._reading(self.lora_A[: self.active_rank])

    @property
    def _active_lora_B(self) -> Tensor:
        assert self.lora_B is not None
        return self._active_outputs(self.lora_B)[:, : self.active_rank]

    def _active_outputs(self, tensor: Tensor) -> Tensor:
        slices = [tensor[rows] for rows in self._rows]
        return slices[0] if len(slices) == 1 else torch.cat(slices)

    @property
    def active_grid(self) -> Grid | None:
        """The grid of `active_weight`.

        Raises:
            CompressionError: the active inputs are no whole number of groups.
        """
        return None if self.grid is None else self.grid.sliced(self._rows, self.active_in)

    def combined_weight(self) -> Tensor:
        """The frozen weight and the adapter as one, shape (active_out, active_in): all that the layer computes with.

        Raises:
            ExportError: merging would fill the zeros of a sparse weight, or leave the grid of a quantized one.
        """
        if self.lora_A is None:
            return self.active_weight
        update = self.scaling * (self._active_lora_B @ self._active_lora_A)
        return self.adapter_mode.weight(self.active_weight, update, self.active_grid)

    def set_weight(self, weight: Tensor, grid: Grid | None) -> None:
        """Put another frozen weight of shape (out_features, in_features) in place; nothing is copied."""
        if grid is not None and self.lora_A is None:
            weight = dequantize(quantize(weight, grid), grid)
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
    def merges(self) -> bool:
        """Whether `merged` gives a layer that computes what this one computes, as sparse and on the same grid."""
        return self.lora_A is None or self.adapter_mode.merges(self.sparsity, self.grid)

    @property
    def sparsity(self) -> float:
        """Fraction of zeros in the active slice of the frozen weight."""
        key = (self.weight.data_ptr(), self.weight._version, self.active_parts, self.active_in)
        if self._sparsity[0] != key:
            self._sparsity = key, float((self.active_weight == 0).float().mean())
        return self._sparsity[1]

    @torch.no_grad()
    def merged(self) -> nn.Linear | Conv1D:
        """A plain layer of the active size and the original's class, its weight the `combined_weight`.

        Raises:
            ExportError: as `combined_weight`, or as `require_finite`.
        """
        self.require_finite()
        merged = self._plain(self.combined_weight())
        _require_finite("weight and adapter together", merged.weight)
        return merged

    def require_finite(self) -> None:
        """Check that what is active can be computed with: nothing can be told from a merge with what cannot.

        Raises:
            ExportError: the weight, its bias or the adapter has values that are not finite.
        """
        _require_finite("its weight", self.active_weight)
        if self.active_bias is not None:
            _require_finite("its bias", self.active_bias)
        if self.lora_A is not None:
            _require_finite("its adapter", self._active_lora_A)
            _require_finite("its adapter", self._active_lora_B)

    @torch.no_grad()
    def unmerged(self) -> ElasticLinear:
        """A layer of the active size on tensors of its own, the adapter beside the weight as it is here.

        Raises:
            ExportError: as `require_finite`.
        """
        self.require_finite()
        layer = self._alone(self.active_weight, self.active_rank)
        layer.scaling = self.scaling
        if self.lora_A is not None:
            layer.lora_A = nn.Parameter(self._active_lora_A.clone())
            layer.lora_B = nn.Parameter(self._active_lora_B.clone())
        return layer

    @torch.no_grad()
    def renewed(self, generator: torch.Generator) -> ElasticLinear:
        """A layer of the active size that computes the same, its adapter taken into the frozen weight and begun anew.

        The new adapter has the largest rank at the same scale. On a sparse or quantized base the weight keeps its zeros
        and its grid, from which it is not rounded yet.

        Raises:
            ExportError: the adapter cannot become part of the weight (see `AdapterMode.absorbed`), or as
                `require_finite`.
        """
        if self.lora_A is None:
            return self.unmerged()
        self.require_finite()
        update = self.scaling * (self._active_lora_B @ self._active_lora_A)
        weight = self.adapter_mode.absorbed(self.active_weight, update, self.active_grid)
        layer = self._alone(weight, self.rank, generator)
        layer.scaling = self.scaling
        return layer

    def _alone(self, weight: Tensor, rank: int, generator: torch.Generator | None = None) -> ElasticLinear:
        """An elastic layer of the active size around `weight`, with a new adapter."""
        parts, grid = self.active_parts, self.active_grid
        return ElasticLinear(self._plain(weight), rank, 1.0, self.dropout.p, generator, parts, self.adapter_mode, grid)

    def _plain(self, weight: Tensor) -> nn.Linear | Conv1D:
        """A layer of the active size and the original's class with a copy of `weight` (active_out, active_in)."""
        layer = self.outline()
        oriented = weight.T if self.transposed else weight
        layer.weight = nn.Parameter(oriented.clone(memory_format=torch.contiguous_format))
        if self.active_bias is not None:
            layer.bias = nn.Parameter(self.active_bias.clone())
        return layer

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
        """Parameters of `merged()`."""
        return self.active_out * (self.active_in + (self.bias is not None))

    @property
    def active_adapter_parameters(self) -> int:
        """Parameters of the active adapter."""
        return self.active_rank * (self.active_in + self.active_out)

    @torch.no_grad()
    def permute_outputs(self, order: Tensor) -> None:
        """Reorder the output channels, adapter included; `order` holds the current indices in their new order."""
        for tensor in (self.weight if self.packed else self.matrix, self.bias, self.lora_B):
            if tensor is not None:
                tensor.copy_(tensor[order])
        self.shares = self._shares  # the fitted weights follow
        if self.grid is not None:
            self.grid = self.grid.reordered(order)

    @torch.no_grad()
    def permute_inputs(self, order: Tensor) -> None:
        """Reorder the input channels, adapter included; what the first of them stand in for is forgotten.

        Raises:
            ValueError: they are in groups on a grid.
        """
        if self.grid is not None and not torch.equal(order.cpu(), torch.arange(self.in_features)):
            raise ValueError(
                "the inputs of a quantized layer are in groups that share a scale, so their order is fixed; order the "
                "model before it is quantized (nas_engine.jobs.recipes.ordered)."
            )
        # Packed inputs are on a grid, and keep their order.
        for tensor in (None if self.packed else self.matrix, self.lora_A):
            if tensor is not None:
                tensor.copy_(tensor[:, order])
        self.shares = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ElasticLinear:
        # A grid and shares are data, no parameters, but they move with the weight, and a grid is cast with it.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.shares = {kept: share.to(self.weight.device) for kept, share in self._shares.items()}
        if self.grid is not None:
            self.grid = replace(self.grid, scale=fn(self.grid.scale), zero_point=fn(self.grid.zero_point))
        return self

    def extra_repr(self) -> str:
        """Active and full sizes."""
        return (
            f"in={self.active_in}/{self.in_features}, out={self.active_out}/{self.out_features}, "
            f"rank={self.active_rank}/{self.rank}, {self.adapter_mode.name}"
        )


def _require_finite(what: str, tensor: Tensor) -> None:
    if not tensor.isfinite().all():
        raise ExportError(
            f"{what} has {int((~tensor.isfinite()).sum())} of {tensor.numel()} numbers that are not finite, as a "
            "training that diverged leaves them; go on from an earlier state, or train anew with a lower learning_rate."
        )
