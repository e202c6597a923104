"""What a super-network is beyond its base and space, as tensors by name: adapters, orders, shares, the task's head."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from nas_engine.errors import CheckpointError
from nas_engine.supernet.elastic_model import ElasticModel
from nas_engine.supernet.layer import Unit
from search_spaces import ModuleName

_ORDER_KEYS: dict[str, Unit] = {"channel_order": "channels", "head_order": "heads"}
_MIXTURE_KEYS = ("expert_order", "expert_channel_order")
_SHARE = ".share."  # between a module and a number of inputs


def adapter_tensors(supernet: ElasticModel) -> dict[str, Tensor]:
    """Every adapter tensor, order of heads and channels and share of inputs of `supernet`, by name."""
    tensors = {
        str(ModuleName(layer.index, key)): layer.orders[unit]
        for layer in supernet.layers
        for key, unit in _ORDER_KEYS.items()
        if unit in layer.orders
    }
    for layer in supernet.layers:
        if layer.mixture is not None and layer.mixture.order is not None and layer.mixture.channel_order is not None:
            orders = layer.mixture.order, layer.mixture.channel_order
            tensors |= {str(ModuleName(layer.index, key)): t for key, t in zip(_MIXTURE_KEYS, orders, strict=True)}
    for name, linear in supernet.elastic_linears.items():
        if linear.lora_A is not None and linear.lora_B is not None:
            tensors |= {f"{name}.lora_A": linear.lora_A.detach(), f"{name}.lora_B": linear.lora_B.detach()}
        tensors |= {f"{name}{_SHARE}{kept}": share for kept, share in linear.shares.items()}
    for path, module in supernet.head.items():
        tensors |= {f"head.{path}.{name}": tensor.detach() for name, tensor in module.state_dict().items()}
    return tensors


@torch.no_grad()
def load_tensors(supernet: ElasticModel, tensors: Mapping[str, Tensor]) -> None:
    """Take over what `adapter_tensors` gave; see `SuperNetwork.load_state`.

    Raises:
        CheckpointError: they are another super-network's, or no whole state.
    """
    _require_fitting(supernet, tensors)
    for key, tensor in tensors.items():
        if key.endswith("_order"):
            index, name = ModuleName.parse(key)
            if name in _MIXTURE_KEYS:
                continue
            layer, unit = supernet.layers[index], _ORDER_KEYS[name]
            current = layer.orders.get(unit, torch.arange(len(tensor)))
            # `current` and `tensor` both hold original indices; compose the way back with the way there.
            layer.permute(unit, current.argsort()[tensor.cpu()].to(supernet.model.device))
    for layer in supernet.layers:
        expert_order, channel_order = (tensors.get(str(ModuleName(layer.index, key))) for key in _MIXTURE_KEYS)
        if layer.mixture is not None and expert_order is not None and channel_order is not None:
            layer.mixture.set_order(expert_order.cpu(), channel_order.cpu())
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


def _require_fitting(supernet: ElasticModel, tensors: Mapping[str, Tensor]) -> None:
    """All of them are known, of the right shape and kind, and none is missing."""
    have = adapter_tensors(supernet)
    needed = {name for name in have if _SHARE not in name and not name.endswith("_order")}
    for layer in supernet.layers:
        named = [str(ModuleName(layer.index, key)) in tensors for key in _MIXTURE_KEYS]
        if any(named) and not all(named):
            raise CheckpointError(f"layers.{layer.index} has an order of experts or of their channels, and not both.")
    if missing := sorted(needed - set(tensors)):
        raise CheckpointError(f"{missing[0]} is missing; it is no whole state of this super-network.")
    for name, tensor in tensors.items():
        if name in needed:
            fits = tensor.shape == have[name].shape and tensor.is_floating_point() == have[name].is_floating_point()
        else:
            fits = _fits_as_order(supernet, name, tensor) or _fits_as_share(supernet, name, tensor, tensors)
        if not fits:
            raise CheckpointError(
                f"{name}, {tensor.dtype} of shape {tuple(tensor.shape)}, is not this super-network's."
            )


def _fits_as_order(supernet: ElasticModel, name: str, tensor: Tensor) -> bool:
    for layer in supernet.layers:
        for key, unit in _ORDER_KEYS.items():
            if name == str(ModuleName(layer.index, key)):
                whole = torch.arange(layer.units(unit))
                return tensor.dtype == whole.dtype and torch.equal(tensor.cpu().sort().values, whole)
        for key in _MIXTURE_KEYS:
            if layer.mixture is not None and name == str(ModuleName(layer.index, key)):
                shape = layer.mixture.full_experts, layer.mixture.full_width
                whole = torch.arange(shape[0]) if key == "expert_order" else torch.arange(shape[1]).repeat(shape[0], 1)
                return tensor.dtype == whole.dtype and torch.equal(tensor.cpu().sort(-1).values, whole)
    return False


def _fits_as_share(supernet: ElasticModel, name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> bool:
    """In what the step from the next wider size leaves out, or in everything, as older files have them."""
    module, _, kept = name.partition(_SHARE)
    linear = supernet.elastic_linears.get(module)
    if linear is None or not re.fullmatch("[1-9][0-9]{0,8}", kept) or not tensor.is_floating_point():
        return False
    start = f"{module}{_SHARE}"
    others = [key.removeprefix(start) for key in tensors if key.startswith(start)]
    wider = min((int(size) for size in others if size.isdigit() and int(size) > int(kept)), default=linear.in_features)
    return tensor.dim() == 2 and len(tensor) == int(kept) and tensor.shape[1] in {
        wider - int(kept), linear.in_features - int(kept)}  # fmt: skip
