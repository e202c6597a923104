"""What is kept of the inputs that calibration texts give a projection: norms for Wanda, products for GPTQ and fits."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_BLOCK = 1024  # rows of a product of which only what is below the diagonal is computed


class InputNorms:
    """An observer that keeps the L2 norm of every input of every projection."""

    def __init__(self) -> None:
        self._squares: dict[str, Tensor] = {}

    def __call__(self, name: str, inputs: Tensor) -> None:
        """Add the squares of `inputs`, shape (tokens, inputs)."""
        total = inputs.float().pow(2).sum(0)
        self._squares[name] = self._squares[name] + total if name in self._squares else total

    def __getitem__(self, name: str) -> Tensor:
        """The norms of a projection, shape (inputs,)."""
        return self._squares[name].sqrt()


class Products:
    """An observer that keeps ``Xᵀ X`` of the inputs X of one projection, in fp32, and adds to it in place."""

    def __init__(self) -> None:
        self._lower: Tensor | None = None

    def __call__(self, name: str, inputs: Tensor) -> None:
        """Add the products of `inputs`, shape (tokens, inputs): below the diagonal, for they are symmetric."""
        x = inputs.float()
        if self._lower is None:
            self._lower = x.new_zeros(x.shape[1], x.shape[1])
        for start, end in _blocks(x.shape[1]):
            self._lower[start:end, :end].addmm_(x[:, start:end].T, x[:, :end])

    @property
    def total(self) -> Tensor:
        """The whole of it, shape (inputs, inputs).

        Raises:
            ValueError: nothing was observed.
        """
        if self._lower is None:
            raise ValueError("no inputs were observed; run the layer first.")
        for start, end in _blocks(len(self._lower)):
            self._lower[:start, start:end] = self._lower[start:end, :start].T
        return self._lower


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK))


class Hessians:
    """An observer that keeps ``Xᵀ X`` of the inputs X of every projection, of shape (inputs, inputs), in fp32.

    Half the Hessian of a layer's squared output error in its weights (GPTQ, section 3). Projections that read the same
    tensor, such as q, k and v, share one.
    """

    def __init__(self) -> None:
        self._products: dict[str, Products] = {}
        self._shared: dict[str, str] = {}  # the projection whose inputs another one reads too
        self._last: tuple[str, Tensor] | None = None

    def __call__(self, name: str, inputs: Tensor) -> None:
        """Add the products of `inputs`, shape (tokens, inputs)."""
        if name not in self._products and name not in self._shared and self._last is not None:
            owner, seen = self._last
            if seen.shape == inputs.shape and torch.equal(seen, inputs):
                self._shared[name] = owner
        if name in self._shared:
            return
        self._last = (name, inputs)
        self._products.setdefault(name, Products())(name, inputs)

    def __getitem__(self, name: str) -> Tensor:
        """The product of a projection, shape (inputs, inputs)."""
        return self._products[self._shared.get(name, name)].total
