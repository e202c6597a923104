"""What may be taken over: plain linear layers, whose one weight is all that they compute with.

Whatever else stands in their place, adapters that PEFT has put in, pruning masks, parametrizations, weights of another
library's quantization, has a `weight` too, and is something else than it: only exact classes are accepted.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from nas_engine.errors import FamilyError
from nas_engine.families.descriptions import FAMILIES, family_of, is_admitted
from nas_engine.families.family import Family, StackedExperts
from nas_engine.families.inspection import inspected
from search_spaces import ModuleName

_PLAIN = (nn.Linear, Conv1D)


class ElasticProjection(nn.Module):
    """What a super-network puts in a projection's place, under its names: its weight is the base's own.

    Attributes:
        transposed: whether the weight is (inputs, outputs), as Conv1D's.
    """

    transposed: bool


def require_plain(model: nn.Module, elastic: bool = False) -> Family:
    """Check that `model` is one of transformers' own, its projections plain; its family.

    Args:
        model: any.
        elastic: whether projections may be a super-network's.

    Raises:
        FamilyError: it is not, with the place, what stands there and what to do.
    """
    if not isinstance(model, PreTrainedModel):
        raise FamilyError(
            f"the model is a {_name(model)}, and not one of transformers' own; of a PEFT model give "
            "model.merge_and_unload(), or its base with load_adapter(...)."
        )
    away = next((path for path, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta), None)
    if away is not None:
        raise FamilyError(
            f"{away} is not in memory, as device_map leaves what it offloads; load the model whole, without device_map."
        )
    for path, module in model.named_modules():
        if type(module).__module__.startswith("peft."):
            raise FamilyError(f"{path} is PEFT's {_name(module)}; merge adapters first: model.merge_and_unload().")
        if parametrize.is_parametrized(module):
            raise FamilyError(
                f"{path} has a parametrized weight; make it permanent first: "
                "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')."
            )
    known = model.config.model_type in FAMILIES or (elastic and is_admitted(model.config.model_type))
    family = family_of(model) if known else inspected(model)
    for key, value in family.granted.items():
        if (given := getattr(model.config, key, value)) != value:
            raise FamilyError(
                f"config.{key} is {given}, and models of type {model.config.model_type!r} are known with {value} alone."
            )
    for index, layer in enumerate(model.get_submodule(family.layers).children()):
        modules = dict(layer.named_modules())
        for name, path in family.projections.items():
            where = str(ModuleName(index, name))
            if path not in modules:
                raise FamilyError(f"{where} is not there; a model with blocks left out is no base, give the whole one.")
            _require_plain_linear(modules[path], where, elastic)
        if family.experts is not None:
            _require_stacked(modules, family.experts, index)
    return family


def _require_stacked(modules: Mapping[str, nn.Module], described: StackedExperts, index: int) -> None:
    """Experts and router have the weights that are known, of sizes that agree, and nothing else."""
    where = f"layers.{index}.experts"
    experts, router = (modules.get(f"{described.block}.{path}") for path in (described.experts, described.router))
    if experts is None or router is None:
        raise FamilyError(f"{where} are not there; layers that are no mixtures of experts among others are not known.")
    for module, names in ((experts, {"gate_up_proj", "down_proj"}), (router, {"weight"})):
        if {name for name, _ in module.named_parameters()} != names or list(module.children())[1:]:
            raise FamilyError(
                f"{where} are a {_name(module)} with {', '.join(name for name, _ in module.named_parameters())}, and "
                f"not {', '.join(sorted(names))} alone; give the model as transformers loads it, unquantized."
            )
        if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
            raise FamilyError(f"{where} have a hook on their forward pass, which would be lost; remove it first.")
    stack, down = (tuple(experts._parameters[name].shape) for name in ("gate_up_proj", "down_proj"))  # type: ignore[union-attr]
    number, hidden, width = down
    routed = tuple(router._parameters["weight"].shape)  # type: ignore[union-attr]
    if stack != (number, 2 * width, hidden) or routed != (number, hidden):
        raise FamilyError(f"{where} have weights of shapes {stack}, {down} and {routed}, which do not fit together.")


def _require_plain_linear(linear: nn.Module, where: str, elastic: bool) -> None:
    if type(linear) not in _PLAIN and not (elastic and isinstance(linear, ElasticProjection)):
        raise FamilyError(
            f"{where} is a {_name(linear)}, whose weight is not all that it computes with; give the model with plain "
            "linear layers, unquantized."
        )
    if "weight" not in linear._parameters:
        raise FamilyError(
            f"{where} computes its weight, as a pruning mask does; make it permanent first: "
            "torch.nn.utils.prune.remove(module, 'weight')."
        )
    if linear._parameters["weight"] is None:
        raise FamilyError(f"{where} has no weight; give a complete model.")
    if linear._forward_hooks or linear._forward_pre_hooks or "forward" in linear.__dict__:
        raise FamilyError(
            f"{where} has a hook on its forward pass, which would be lost; remove it first, or load the model "
            "without the device_map that put it there."
        )


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
