"""A linear layer with a low-rank adapter, of which a prefix of the inputs, outputs and ranks is active."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from nas_engine.compression.grid import Grid, dequantize, quantize
from nas_engine.supernet.adapter_mode import AdapterMode, Plain
from nas_engine.supernet.frozen_linear import FrozenLinear


class ElasticLinear(FrozenLinear):
    """``Y = X Wᵀ + b + s · drop(X) Aᵀ Bᵀ`` on prefix slices, with ``s = alpha / r_max`` at every active rank.

    A state dict without the adapter is the original layer's. Mode A moves the rank alone, Mode B inputs or outputs in
    step with the frozen weight's (LoNAS, section 3). How weight and adapter combine on a sparse or quantized base is an
    `AdapterMode`. What the layer becomes when it leaves is in `nas_engine.supernet.leaving`.

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
        if dropout and not adapter_mode.beside:
            raise ValueError(
                f"dropout is {dropout}, but with adapter_mode={adapter_mode.name!r} weight and adapter are one: what "
                "training computed would differ from what is merged; set dropout to 0."
            )
        super().__init__(base, parts, grid)
        self.adapter_mode = adapter_mode
        self.rank = self.active_rank = rank
        self.scaling = alpha / rank if rank else 0.0
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

    def set_rank(self, rank: int) -> None:
        """Make the first `rank` ranks active."""
        self.active_rank = rank

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, active_in) to (…, active_out)."""
        if self.lora_A is not None and not self.adapter_mode.beside:
            return F.linear(x, self.combined_weight().to(x.dtype), self.active_bias)
        if self._merges(x):
            return F.linear(x, self._added_weight(), self.active_bias)
        y = self.frozen_outputs(x)
        if self.lora_A is None or self.lora_B is None:
            return y
        lora_A = self.active_lora_A.to(x.dtype)
        lora_B = self.active_lora_B.to(x.dtype)
        hidden = F.linear(self.dropout(x), lora_A)  # (…, active_rank)
        # One product that adds, instead of a product, a scaling and a sum: two fewer passes over the outputs.
        return torch.addmm(y.flatten(0, -2), hidden.flatten(0, -2), lora_B.T, alpha=self.scaling).view(y.shape)

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
        lora_A = self.active_lora_A
        return torch.addmm(self.active_weight.to(lora_A), self.active_lora_B, lora_A, alpha=self.scaling)

    @property
    def active_lora_A(self) -> Tensor:
        """The adapter's first factor, shape (active_rank, active_in), of a layer that has one."""
        assert self.lora_A is not None
        return self._reading(self.lora_A[: self.active_rank])

    @property
    def active_lora_B(self) -> Tensor:
        """The adapter's second factor, shape (active_out, active_rank), of a layer that has one."""
        assert self.lora_B is not None
        return self._active_outputs(self.lora_B)[:, : self.active_rank]

    @property
    def update(self) -> Tensor:
        """What the adapter adds to the weight, ``s · B A``, shape (active_out, active_in), of a layer that has one."""
        return self.scaling * (self.active_lora_B @ self.active_lora_A)

    def combined_weight(self) -> Tensor:
        """The frozen weight and the adapter as one, shape (active_out, active_in): all that the layer computes with.

        Raises:
            ExportError: merging would fill the zeros of a sparse weight, or leave the grid of a quantized one.
        """
        if self.lora_A is None:
            return self.active_weight
        return self.adapter_mode.weight(self.active_weight, self.update, self.active_grid)

    def set_weight(self, weight: Tensor, grid: Grid | None) -> None:
        """As `FrozenLinear.set_weight`; without an adapter, which is rounded with the weight, it is put on its grid."""
        if grid is not None and self.lora_A is None:
            weight = dequantize(quantize(weight, grid), grid)
        super().set_weight(weight, grid)

    @property
    def merges(self) -> bool:
        """Whether a plain layer, as sparse and on the same grid, computes what this one computes; see
        `nas_engine.supernet.leaving.merged_layer`.
        """
        return self.lora_A is None or self.adapter_mode.merges(self.sparsity, self.grid)

    @property
    def active_adapter_parameters(self) -> int:
        """Parameters of the active adapter."""
        return self.active_rank * (self.active_in + self.active_out)

    @torch.no_grad()
    def permute_outputs(self, order: Tensor) -> None:
        """As `FrozenLinear.permute_outputs`, the adapter's likewise."""
        super().permute_outputs(order)
        if self.lora_B is not None:
            self.lora_B.copy_(self.lora_B[order])

    @torch.no_grad()
    def permute_inputs(self, order: Tensor) -> None:
        """As `FrozenLinear.permute_inputs`, the adapter's likewise."""
        super().permute_inputs(order)
        if self.lora_A is not None:
            self.lora_A.copy_(self.lora_A[:, order])

    def extra_repr(self) -> str:
        """Active and full sizes."""
        return (
            f"in={self.active_in}/{self.in_features}, out={self.active_out}/{self.out_features}, "
            f"rank={self.active_rank}/{self.rank}, {self.adapter_mode.name}"
        )
