"""A linear layer with a low-rank adapter, of which a prefix of the inputs, outputs and ranks is active.

Nothing is masked or copied: active weights are views of the first rows and columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ElasticLinear(nn.Module):
    """``Y = X Wᵀ + b + s · drop(X) Aᵀ Bᵀ`` on prefix slices, with ``s = alpha / r_max`` at every active rank.

    The frozen layer keeps its parameters under their own names, so that a state dict without the adapter is the
    original layer's. Mode A moves the rank alone, Mode B inputs or outputs in step with the frozen weight's
    (LoNAS, section 3).

    Args:
        base: the layer to freeze and adapt; its parameters are taken over, not copied.
        rank: the adapter's largest rank r_max; 0 for a layer whose width alone is elastic.
        alpha: LoRA's alpha.
        dropout: probability on the adapter's input, in training.
        generator: draws the initial `lora_A`; `lora_B` starts at zero.
    """

    bias: nn.Parameter | None  # (outputs,)
    lora_A: nn.Parameter | None  # (rank, inputs)
    lora_B: nn.Parameter | None  # (outputs, rank)

    def __init__(
        self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.weight = base.weight  # (outputs, inputs)
        self.register_parameter("bias", base.bias)
        for parameter in base.parameters():
            parameter.requires_grad_(False)
        self.in_features, self.out_features, self.rank = base.in_features, base.out_features, rank
        self.active_in, self.active_out, self.active_rank = base.in_features, base.out_features, rank
        self.scaling = alpha / rank if rank else 0.0
        self.dropout = nn.Dropout(dropout)
        if rank:
            lora_A = torch.empty(rank, base.in_features)
            nn.init.kaiming_uniform_(lora_A, a=math.sqrt(5), generator=generator)
            # Adapters stay in fp32 on a half-precision base only if the base is; a mixed product would need casts.
            self.lora_A = nn.Parameter(lora_A.to(base.weight))
            self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        else:
            self.register_parameter("lora_A", None)
            self.register_parameter("lora_B", None)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, active_in) to (…, active_out)."""
        y = F.linear(x, self.active_weight, self.active_bias)
        if self.lora_A is None or self.lora_B is None:
            return y
        hidden = F.linear(self.dropout(x), self.lora_A[: self.active_rank, : self.active_in])  # (…, active_rank)
        return y + F.linear(hidden * self.scaling, self.lora_B[: self.active_out, : self.active_rank])

    @property
    def active_weight(self) -> Tensor:
        """The frozen weight's active slice, a view of shape (active_out, active_in)."""
        return self.weight[: self.active_out, : self.active_in]

    @property
    def active_bias(self) -> Tensor | None:
        """The bias's active slice, a view of shape (active_out,)."""
        return None if self.bias is None else self.bias[: self.active_out]

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain layer of the active size with the adapter added to its weight: ``W + s · B A``."""
        weight = self.active_weight.clone()
        if self.lora_A is not None and self.lora_B is not None:
            lora_B = self.lora_B[: self.active_out, : self.active_rank]
            weight.addmm_(lora_B, self.lora_A[: self.active_rank, : self.active_in], alpha=self.scaling)
        with torch.device("meta"):
            layer = nn.Linear(self.active_in, self.active_out, bias=self.bias is not None)
        layer.weight = nn.Parameter(weight)
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias[: self.active_out].clone())
        return layer

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
        for tensor in (self.weight, self.bias, self.lora_B):
            if tensor is not None:
                tensor.copy_(tensor[order])

    @torch.no_grad()
    def permute_inputs(self, order: Tensor) -> None:
        """Reorder the input channels, adapter included."""
        for tensor in (self.weight, self.lora_A):
            if tensor is not None:
                tensor.copy_(tensor[:, order])

    def extra_repr(self) -> str:
        """Active and full sizes."""
        return (
            f"in={self.active_in}/{self.in_features}, out={self.active_out}/{self.out_features}, "
            f"rank={self.active_rank}/{self.rank}"
        )
