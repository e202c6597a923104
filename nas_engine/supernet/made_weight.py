"""Products with a frozen weight that is held smaller than it computes: in half precision, or as packed integers.

The weight is made for the product and let go, and made again for the gradient of what is read. So one layer's is there
at a time, where autograd by itself would keep that of every layer until the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Maker = Callable[[], Tensor]
"""Makes a weight of shape (outputs, inputs), each time the same; it holds what it makes it of, and not whose it is."""


def product(x: Tensor, make: Maker, bias: Tensor | None) -> Tensor:
    """``X Wᵀ + b`` for the weight W that `make` makes, shape (…, outputs); no gradient reaches W or b."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return F.linear(x, make(), bias)
    y: Tensor = _Product.apply(x, make, bias)  # type: ignore[no-untyped-call]
    return y


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, make: Maker, bias: Tensor | None) -> Tensor:
        ctx.make = make
        return F.linear(x, make(), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        return gradient @ ctx.make().to(gradient.dtype), None, None
