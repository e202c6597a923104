"""A layer's experts, of which a prefix is active, each at a prefix of its channels.

Experts are stacked in tensors, and stay frozen: adapters are on attention alone. Fewer experts are a router that knows
fewer, at no cost; narrower ones are copied for each forward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nas_engine.families.family import StackedExperts


class Mixture:
    """The experts of one layer and their router; made where the family has some.

    Args:
        where: of the modules in the layer.
        layer: that has them.

    Attributes:
        experts: the module of the experts.
        router: that of their router.
        active: how many experts are active.
        width: how many channels of each.
        order: the experts' original indices, from the most important on; None where they were not ordered.
        channel_order: the same of each expert's channels, shape (experts, channels).
    """

    def __init__(self, where: StackedExperts, layer: nn.Module) -> None:
        self.where = where
        self.block = layer.get_submodule(where.block)
        self.experts = self.block.get_submodule(where.experts)
        self.router = self.block.get_submodule(where.router)
        self.full_experts, _, self.full_width = self.down.shape
        self.per_token = int(self.router.top_k)  # type: ignore[arg-type]
        self.active, self.width = self.full_experts, self.full_width
        self.order: Tensor | None = None
        self.channel_order: Tensor | None = None

    @property
    def gate_up(self) -> Tensor:
        """Gates and ups of all experts, shape (experts, 2 * channels, hidden)."""
        return self.experts.gate_up_proj  # type: ignore[return-value]

    @property
    def down(self) -> Tensor:
        """Shape (experts, hidden, channels)."""
        return self.experts.down_proj  # type: ignore[return-value]

    @property
    def inactive_parameters(self) -> int:
        """Parameters that the extracted mixture does not have."""
        hidden = self.down.shape[1]
        return (self.full_experts * self.full_width - self.active * self.width) * 3 * hidden + (
            self.full_experts - self.active
        ) * hidden

    def resize(self, active: int, width: int) -> None:
        """Make the first `active` experts active, each at its first `width` channels."""
        self.active, self.width = active, width
        for module, cut in ((self.router, active < self.full_experts), (self.experts, width < self.full_width)):
            if cut:
                # An attribute of the instance hides the class's method: the module keeps its place and its weights.
                module.__dict__["forward"] = partial(self._forward, module)
            else:
                module.__dict__.pop("forward", None)

    def _forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The class's own forward pass, on the active slices."""
        return type(module).forward(self._view(module), *args, **kwargs)

    def _view(self, module: nn.Module) -> nn.Module:
        """`module` with the active slices as its weights."""
        view = copy.copy(module)
        view.__dict__.pop("forward", None)
        view.__dict__["_parameters"] = self.tensors(module)
        for name, value in self.attributes(module).items():
            setattr(view, name, value)
        return view

    def tensors(self, module: nn.Module) -> dict[str, Tensor]:
        """The active weights of the experts or of the router, by name."""
        if module is self.router:
            return {"weight": self.router.weight[: self.active]}  # type: ignore[index]
        gate, up = self.gate_up[: self.active].chunk(2, dim=1)
        gate_up = self.gate_up[: self.active]
        if self.width < self.full_width:
            gate_up = torch.cat([gate[:, : self.width], up[:, : self.width]], dim=1)
        return {"gate_up_proj": gate_up, "down_proj": self.down[: self.active, :, : self.width]}

    def attributes(self, module: nn.Module) -> dict[str, int]:
        """The sizes that the experts or the router keep."""
        sizes = {"num_experts": self.active}
        return sizes if module is self.router else sizes | {"intermediate_dim": self.width}

    @property
    def paths(self) -> Mapping[str, nn.Module]:
        """Experts and router, by path inside the layer."""
        where = self.where
        return {f"{where.block}.{where.experts}": self.experts, f"{where.block}.{where.router}": self.router}

    @property
    def cut(self) -> bool:
        """Whether less than all of it is active."""
        return (self.active, self.width) != (self.full_experts, self.full_width)

    @torch.no_grad()
    def extracted(self, module: nn.Module, memo: Mapping[int, object]) -> nn.Module:
        """Experts or router of the active size, on tensors of their own.

        Args:
            module: one of the two.
            memo: what `deepcopy` is to put in the place of objects, by their ids.
        """
        view = self._view(module)
        cut = {
            id(tensor): nn.Parameter(tensor.clone(memory_format=torch.contiguous_format))
            for tensor in view.__dict__["_parameters"].values()
        }
        return copy.deepcopy(view, dict(memo) | cut)

    @torch.no_grad()
    def permute(self, order: Tensor, channels: Tensor) -> None:
        """Reorder experts and each one's channels; both hold current indices in their new order.

        Args:
            order: of the experts, shape (experts,).
            channels: of each expert as it is numbered now, shape (experts, channels).
        """
        for index in range(self.full_experts):
            rows = torch.cat([channels[index], channels[index] + self.full_width])
            self.gate_up[index] = self.gate_up[index][rows]
            self.down[index] = self.down[index][:, channels[index]]
        for tensor in (self.gate_up, self.down, self.router.weight):
            tensor.copy_(tensor[order])  # type: ignore[operator, index]
        whole = torch.arange(self.full_width).expand(self.full_experts, -1)
        before = whole if self.channel_order is None else self.channel_order
        self.channel_order = before.gather(1, channels.cpu())[order.cpu()]
        self.order = order.cpu() if self.order is None else self.order[order.cpu()]

    def set_order(self, order: Tensor, channels: Tensor) -> None:
        """Bring experts and channels into the order in which the original indices are these."""
        self.restore()
        self.permute(order.to(self.down.device), channels[order.argsort()].to(self.down.device))

    def restore(self) -> None:
        """Bring experts and channels back to the original order."""
        if self.order is not None and self.channel_order is not None:
            device = self.down.device
            self.permute(self.order.argsort().to(device), self.channel_order.argsort(1).to(device))
            self.order = self.channel_order = None

    def original(self, name: str, tensor: Tensor) -> Tensor:
        """A weight, ``weight``, ``gate_up_proj`` or ``down_proj``, in the original model's order."""
        if self.order is None or self.channel_order is None:
            return tensor
        channels = self.channel_order.argsort(1).to(tensor.device)
        if name == "gate_up_proj":
            rows = torch.cat([channels, channels + self.full_width], dim=1)
            tensor = torch.stack([stack[index] for stack, index in zip(tensor, rows, strict=True)])
        elif name == "down_proj":
            tensor = torch.stack([stack[:, index] for stack, index in zip(tensor, channels, strict=True)])
        return tensor[self.order.argsort().to(tensor.device)]
