"""From an active sub-network to a physically smaller model of its own, adapters merged."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from nas_engine.errors import ExportError
from nas_engine.families import modeling_subnetwork as runtime
from nas_engine.families.family import Family
from nas_engine.supernet.elastic import ElasticLinear
from nas_engine.supernet.layer import BLOCKS, Block, ElasticLayer
from nas_engine.supernet.leaving import deployed_layer


def extract(
    model: PreTrainedModel,
    family: Family,
    layers: Sequence[ElasticLayer],
    share_embeddings: bool = False,
    merge: bool | None = None,
    stand_in: Callable[[ElasticLinear], nn.Module] | None = None,
) -> PreTrainedModel:
    """The active sub-network of `model` as an independent model, in evaluation mode.

    Layers that lost both blocks are gone. Equal sizes in all layers give the stock architecture where it can be built
    with them; otherwise it is the same architecture with `config.subnetwork`, saved with the code that loads it.

    Args:
        model: a super-network's model.
        family: where the projections are.
        layers: its layers, set to the sub-network's sizes.
        share_embeddings: keep the embedding tensors instead of copying them.
        merge: True merges every adapter, None those that merge without loss; the others stay beside their weights.
        stand_in: what an elastic layer becomes instead.

    Raises:
        ExportError: `merge` is True, and an adapter does not merge without loss, or a weight is not finite (the
            projection is named).
    """
    gone = {layer.index for layer in absent_layers(layers)}
    # `deepcopy` looks objects up in the memo before it copies them: elastic layers turn into their merged slices
    # and no full-size copy is ever made.
    config = copy.deepcopy(model.config)
    memo: dict[int, object] = {id(model.config): config}
    for layer in layers:
        if layer.index in gone:
            memo[id(layer.module)] = nn.Identity()
            continue
        memo |= {id(linear): _deployed(linear, layer, name, merge, stand_in) for name, linear in layer.linears.items()}
        if layer.mixture is not None and layer.kept["mlp"]:
            of_config = {id(model.config): config}
            memo |= {id(m): layer.mixture.extracted(m, of_config) for m in layer.mixture.paths.values()}
        memo |= {id(m): layer.bypass(block, b) for block, b, m in bypassed(layer)}
    if share_embeddings:
        memo |= {id(p): p for e in _embeddings(model) for p in e.parameters()}
    extracted: PreTrainedModel = copy.deepcopy(model, memo)
    _drop_layers(extracted, family, gone)
    left = [layer for layer in layers if layer.index not in gone]
    if not _describe_as_stock(extracted, family, left):
        extracted.config.subnetwork = _changes(family, left)
        # What is saved names the class with its head by itself. Runtimes with a head of their own build the other one.
        trunk = type(extracted.base_model).__name__
        extracted.config.auto_map = {"AutoModel": f"{runtime.__name__.rpartition('.')[2]}.Subnetwork{trunk}"}
        extracted.__class__ = getattr(runtime, f"Subnetwork{type(model).__name__}")
    if not share_embeddings:
        extracted.requires_grad_(True)
    extracted.eval()
    return extracted


def _deployed(
    linear: ElasticLinear,
    layer: ElasticLayer,
    name: str,
    merge: bool | None,
    stand_in: Callable[[ElasticLinear], nn.Module] | None,
) -> nn.Module:
    try:
        if stand_in is not None:
            return stand_in(linear)
        return deployed_layer(linear, merge)
    except ExportError as error:
        raise ExportError(f"layers.{layer.index}.{name} cannot be merged: {error}") from error


def absent_layers(layers: Sequence[ElasticLayer]) -> list[ElasticLayer]:
    """The layers that an extracted model does not have; one is always left, for the cache to count positions by."""
    absent = [layer for layer in layers if layer.absent]
    return absent if len(absent) < len(layers) else absent[1:]


def bypassed(layer: ElasticLayer) -> list[tuple[Block, Any, nn.Module]]:
    """The modules of `layer` that are left out: the block, its description and the module."""
    return [
        (block, bypass, layer.module.get_submodule(bypass.module))
        for block in BLOCKS
        if not layer.kept[block]
        for bypass in layer.bypasses(block)
    ]


def _embeddings(model: PreTrainedModel) -> list[nn.Module]:
    return [e for e in (model.get_input_embeddings(), model.get_output_embeddings()) if e is not None]


def _drop_layers(model: PreTrainedModel, family: Family, gone: set[int]) -> None:
    if not gone:
        return
    parent, _, name = family.layers.rpartition(".")
    layers = list(model.get_submodule(family.layers).children())
    left = [layer for i, layer in enumerate(layers) if i not in gone]
    setattr(model.get_submodule(parent), name, nn.ModuleList(left))
    for index, layer in enumerate(left):
        for module in layer.modules():
            if getattr(module, "layer_idx", None) is not None:
                module.layer_idx = index  # type: ignore[assignment]
    for key in family.layer_keys:
        of_layers = getattr(model.config, key, None)
        if of_layers is not None:
            setattr(model.config, key, [entry for i, entry in enumerate(of_layers) if i not in gone])
    model.config.num_hidden_layers = len(left)


def _describe_as_stock(model: PreTrainedModel, family: Family, layers: Sequence[ElasticLayer]) -> bool:
    """Put sizes that all layers share into the configuration; False where that does not describe the whole model."""
    with_mlp = [layer for layer in layers if layer.kept["mlp"]]
    with_attention = [layer for layer in layers if layer.kept["attention"]]
    described = len(with_mlp) == len(with_attention) == len(layers) and not any(map(_head_biases, layers))
    widths, heads = {layer.width for layer in with_mlp}, {layer.heads for layer in with_attention}
    if any(layer.width != layer.full_width for layer in with_mlp):
        full_widths = {layer.full_width for layer in layers}
        one = len(widths) == len(full_widths) == 1 and family.width_key is not None
        described &= one
        if one and family.width_key is not None:
            described &= _described(model, {family.width_key: min(widths)})
    experts = {layer.mixture.active for layer in with_mlp if layer.mixture is not None}
    if family.experts is not None and experts != {layers[0].mixture.full_experts}:  # type: ignore[union-attr]
        described &= len(experts) == 1
        if len(experts) == 1:
            described &= _described(model, {family.experts.count_key: min(experts)})
    if heads != {layers[0].full_heads}:
        described &= len(heads) == 1 and family.stock_heads
        if len(heads) == 1 and family.stock_heads:
            first = with_attention[0]
            sizes = {"head_dim": first.head_size, "num_attention_heads": first.heads}
            described &= _described(model, sizes | {"num_key_value_heads": first.heads // first.group})
    return described


def _described(model: PreTrainedModel, sizes: Mapping[str, int]) -> bool:
    """Put `sizes` into the configuration; False where transformers would not load it with them."""
    if not _configurable(model.config, sizes):
        return False
    for name, size in sizes.items():
        setattr(model.config, name, size)
    return True


def _configurable(config: PreTrainedConfig, sizes: Mapping[str, int]) -> bool:
    """Whether transformers would load `config` with these sizes: some heads fit no check of a family's."""
    try:
        type(config).from_dict(config.to_dict() | dict(sizes))
    except (StrictDataclassError, ValueError):
        return False
    return True


def _changes(family: Family, layers: Sequence[ElasticLayer]) -> dict[str, dict[str, Any]]:
    """What `modeling_subnetwork` changes in the stock architecture, by path; layers are numbered anew."""
    changes: dict[str, dict[str, Any]] = {"linears": {}, "attributes": {}, "bypasses": {}, "head_biases": {}}
    if family.experts is not None:
        changes["tensors"] = {}
    for index, layer in enumerate(layers):
        prefix = f"{family.layers}.{index}."
        out = tuple(f"{bypass.module}." for _, bypass, _ in bypassed(layer))
        for name, linear in layer.linears.items():
            path = f"{family.projections[name]}."
            cut = (linear.active_out, linear.active_in) != (linear.out_features, linear.in_features)
            if cut and not path.startswith(out):
                changes["linears"][prefix + path[:-1]] = [linear.active_out, linear.active_in]
        for block, bypass, _ in bypassed(layer):
            arguments = asdict(bypass)
            del arguments["module"]
            if block == "attention":
                arguments["layer_idx"] = index
            changes["bypasses"][prefix + bypass.module] = arguments
        if layer.mixture is not None and layer.mixture.cut and layer.kept["mlp"]:
            for path, module in layer.mixture.paths.items():
                tensors = layer.mixture.tensors(module).items()
                changes["tensors"] |= {f"{prefix}{path}.{name}": list(tensor.shape) for name, tensor in tensors}
                sizes = layer.mixture.attributes(module).items()
                changes["attributes"] |= {f"{prefix}{path}.{name}": size for name, size in sizes}
        if layer.kept["attention"]:
            if layer.heads < layer.full_heads:
                changes["attributes"] |= {prefix + path: value for path, value in layer.head_attributes.items()}
            changes["head_biases"] |= {prefix + path: value for path, value in _head_biases(layer).items()}
    return changes


def _head_biases(layer: ElasticLayer) -> dict[str, dict[str, Any]]:
    bias, keep = layer.family.head_bias, layer.bias_heads
    if bias is None or keep == list(range(layer.full_heads)):
        return {}
    return {bias.module: {"argument": bias.argument, "heads": layer.full_heads, "keep": keep}}
