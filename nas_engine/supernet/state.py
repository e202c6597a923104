"""What a super-network is beyond its base and space, as tensors by name: adapters, orders, shares, the task's head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nas_engine.supernet.layer import Unit

if TYPE_CHECKING:
    from nas_engine.supernet.supernetwork import SuperNetwork

_ORDER_KEYS: dict[str, Unit] = {"channel_order": "channels", "head_order": "heads"}
_SHARE = ".share."  # between a module and a number of inputs


def adapter_tensors(supernet: SuperNetwork) -> dict[str, Tensor]:
    """Every adapter tensor, order of heads and channels and share of inputs of `supernet`, by name."""
    tensors = {
        f"layers.{layer.index}.{key}": layer.orders[unit]
        for layer in supernet.layers
        for key, unit in _ORDER_KEYS.items()
        if unit in layer.orders
    }
    for name, layer in supernet.elastic_linears.items():
        if layer.lora_A is not None and layer.lora_B is not None:
            tensors |= {f"{name}.lora_A": layer.lora_A.detach(), f"{name}.lora_B": layer.lora_B.detach()}
        tensors |= {f"{name}{_SHARE}{kept}": share for kept, share in layer.shares.items()}
    for path, module in supernet.head.items():
        tensors |= {f"head.{path}.{name}": tensor.detach() for name, tensor in module.state_dict().items()}
    return tensors


@torch.no_grad()
def load_tensors(supernet: SuperNetwork, tensors: Mapping[str, Tensor]) -> None:
    """Take over what `adapter_tensors` gave; see `SuperNetwork.load_state`."""
    for key, tensor in tensors.items():
        if key.endswith("_order"):
            _, index, name = key.split(".")
            layer, unit = supernet.layers[int(index)], _ORDER_KEYS[name]
            current = layer.orders.get(unit, torch.arange(len(tensor)))
            # `current` and `tensor` both hold original indices; compose the way back with the way there.
            layer.permute(unit, current.argsort()[tensor.cpu()].to(supernet.model.device))
    for module, linear in supernet.elastic_linears.items():
        start = f"{module}{_SHARE}"
        linear.shares = {
            int(key.removeprefix(start)): share.to(linear.weight.device)
            for key, share in tensors.items()
            if key.startswith(start)
        }
        if linear.lora_A is not None and linear.lora_B is not None:
            linear.lora_A.copy_(tensors[f"{module}.lora_A"])
            linear.lora_B.copy_(tensors[f"{module}.lora_B"])
    for path, head in supernet.head.items():
        head.load_state_dict({name: tensors[f"head.{path}.{name}"] for name in head.state_dict()})
