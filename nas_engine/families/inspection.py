"""A family for a model that nobody described: admitted if every assumption about it is seen to hold, refused else.

What is assumed is a Llama: layers in ``model.layers`` that add attention and then a gated MLP to the residual stream,
each behind a norm, with projections of their own. Names and shapes are looked at, and then a short text is run through
the model and through its parts: what the parts give has to be what the model gives, with fewer heads too. Its smaller
sub-networks leave with code, which changes nothing but sizes; layers that differ in anything are not understood.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nas_engine.errors import FamilyError, NasEngineWarning
from nas_engine.families.descriptions import FAMILIES, admit, is_admitted
from nas_engine.families.family import Family, attention_sizes

_PROJECTIONS = {"self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"), "mlp": ("gate_proj", "up_proj", "down_proj")}
_NORMS = ("input_layernorm", "post_attention_layernorm")
_LISTS = ("architectures", "eos_token_id", "layer_types")  # of a configuration, which say nothing unknown of a layer
_TOKENS = 12  # of the text that is run


class _Unlike(Exception):
    """The model is not what is assumed; what differs."""


def inspected(model: PreTrainedModel) -> Family:
    """The family of a model whose `model_type` no family describes, admitted for the rest of the process.

    Warns, the first time, that it was found by inspection.

    Raises:
        FamilyError: something is not as assumed; what, and which families are described.
    """
    model_type = model.config.model_type
    try:
        _require_parts(model)
        _require_equal_layers(model)
        _require_computed(model)
    except _Unlike as reason:
        raise FamilyError(
            f"models of type {model_type!r} are not supported; supported are {', '.join(sorted(FAMILIES))}, and those "
            f"that inspection finds to be like Llama, which this one is not: {reason}. A new family is one description "
            "in nas_engine/families/descriptions.py."
        ) from reason
    if not is_admitted(model_type):
        _warn(model_type)
    # The stock architecture might make more of its sizes than their shapes: what is smaller leaves with code.
    return admit(Family(model_type, width_key=None, stock_heads=False))


def _warn(model_type: str) -> None:
    warnings.warn(
        f"no family describes models of type {model_type!r}; by inspection this one is like Llama: names, shapes and "
        f"what its layers give on {_TOKENS} tokens. Its sub-networks leave with code. Compare one that you "
        "extracted with its super-network before you rely on it.",
        NasEngineWarning,
        stacklevel=5,
    )


def _require_parts(model: PreTrainedModel) -> None:
    config, trunk = model.config, getattr(model, "model", None)
    layers = getattr(trunk, "layers", None)
    if model.get_output_embeddings() is None or not isinstance(layers, nn.ModuleList):
        raise _Unlike("it is no language model with its layers in model.layers")
    if len(layers) != getattr(config, "num_hidden_layers", None):
        raise _Unlike(f"it has {len(layers)} layers, and its configuration says otherwise")
    for key, value in config.to_dict().items():
        if isinstance(value, list | tuple) and len(value) == len(layers) and key not in _LISTS:
            raise _Unlike(f"config.{key} has an entry for every layer, whose meaning is not known")
    heads, kv_heads, size = attention_sizes(config)
    hidden, width = config.hidden_size, getattr(config, "intermediate_size", None)
    shapes = {
        "q_proj": (heads * size, hidden), "k_proj": (kv_heads * size, hidden), "v_proj": (kv_heads * size, hidden),
        "o_proj": (hidden, heads * size), "gate_proj": (width, hidden), "up_proj": (width, hidden),
        "down_proj": (hidden, width),
    }  # fmt: skip
    for index, layer in enumerate(layers):
        names = {name for name, _ in layer.named_children()}
        if names != {*_PROJECTIONS, *_NORMS}:
            raise _Unlike(
                f"layer {index} has {', '.join(sorted(names))} where Llama has {', '.join(_NORMS)} and blocks"
            )
        for block, projections in _PROJECTIONS.items():
            _require_block(layer.get_submodule(block), f"layers.{index}.{block}", projections, shapes, size)


def _require_block(
    block: nn.Module, where: str, projections: tuple[str, ...], shapes: dict[str, tuple[int, int]], head_size: int
) -> None:
    children = dict(block.named_children())
    for name in projections:
        weight = getattr(children.get(name), "weight", None)
        if not isinstance(weight, Tensor) or tuple(weight.shape) != shapes[name]:
            found = "is not there" if weight is None else f"is {tuple(weight.shape)}"
            raise _Unlike(f"{where}.{name} {found}, and would be {shapes[name]} in Llama")
    for name, parameter in block.named_parameters():
        owner = name.partition(".")[0]
        # Norms of queries and keys are over one head at a time, or fewer heads would be another norm.
        if owner not in projections and ("norm" not in owner or tuple(parameter.shape) != (head_size,)):
            raise _Unlike(f"{where}.{name}, of shape {tuple(parameter.shape)}, is nothing that Llama has")


def _require_equal_layers(model: PreTrainedModel) -> None:
    """Layers that go make others take their numbers: none may be what it is by its number."""
    first: dict[str, dict[str, Any]] = {}
    for index, layer in enumerate(model.model.layers):
        for path, module in layer.named_modules():
            plain = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str | None)}
            plain.pop("training", None)
            number = plain.pop("layer_idx", None)
            if number not in (None, index) or (path == "self_attn" and number is None):
                raise _Unlike(f"layers.{index}.{path}.layer_idx is {number}")
            plain |= {"": f"{type(module).__module__}.{type(module).__qualname__}"}
            if plain != first.setdefault(path, plain):
                key = next(k for k in plain | first[path] if plain.get(k) != first[path].get(k))
                raise _Unlike(
                    f"layers.{index}.{path}.{key or 'class'} is {plain.get(key)}, and {first[path].get(key)} in layer 0"
                )


@torch.no_grad()
def _require_computed(model: PreTrainedModel) -> None:
    """Run a text, and each layer's parts on what they were given."""
    was_training = model.training
    model.eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (1, _TOKENS), generator=generator).to(model.device)
    layers = list(model.model.layers)
    try:
        with _heard(layers) as heard:
            model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        for index, layer in enumerate(layers):
            _require_layer(layer, f"layer {index}", heard, attention_sizes(model.config))
            following = heard.get(layers[index + 1]) if index + 1 < len(layers) else None
            if following is not None:
                _require_close(
                    _hidden(following[0], following[1]), _first(heard[layer][2]), f"what layer {index + 1} reads"
                )
    except _Unlike:
        raise
    except Exception as error:  # whatever its code does with parts of it, it is not what is assumed
        raise _Unlike(f"its parts do not run alone ({type(error).__name__}: {error})") from error
    finally:
        model.train(was_training)


_Call = tuple[tuple[Any, ...], dict[str, Any], Any]


@contextmanager
def _heard(layers: list[nn.Module]) -> Iterator[dict[nn.Module, _Call]]:
    """The last call of every layer and of the modules in it: arguments and result."""
    heard: dict[nn.Module, _Call] = {}

    def listen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        heard[module] = args, kwargs, output

    handles = [m.register_forward_hook(listen, with_kwargs=True) for layer in layers for m in layer.modules()]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _require_layer(layer: Any, where: str, heard: dict[nn.Module, _Call], sizes: tuple[int, int, int]) -> None:
    args, kwargs, output = heard[layer]
    read = _hidden(args, kwargs)
    before, after = layer.input_layernorm, layer.post_attention_layernorm
    attended = heard[layer.self_attn][2]
    if not isinstance(attended, tuple) or len(attended) != 2 or not isinstance(heard[layer.mlp][2], Tensor):
        raise _Unlike(f"the blocks of {where} do not give what Llama's give")
    middle = read + attended[0]
    _require_close(_hidden(*heard[layer.self_attn][:2]), before(read), f"what attention of {where} reads")
    _require_close(_hidden(*heard[layer.mlp][:2]), after(middle), f"what the MLP of {where} reads")
    _require_close(_first(output), middle + heard[layer.mlp][2], f"what {where} gives")
    mlp = layer.mlp
    given = after(middle)
    gated = mlp.down_proj(mlp.act_fn(mlp.gate_proj(given)) * mlp.up_proj(given))
    _require_close(heard[mlp][2], gated, f"the MLP of {where}")
    _require_heads(layer.self_attn, where, heard, sizes)


def _require_heads(attention: Any, where: str, heard: dict[nn.Module, _Call], sizes: tuple[int, int, int]) -> None:
    """With the first KV group alone, attention gives `o` that group's heads, and its number does not matter."""
    heads, kv_heads, size = sizes
    group = heads // kv_heads * size
    cut = {"q_proj": (group, None), "k_proj": (size, None), "v_proj": (size, None), "o_proj": (None, group)}
    args, kwargs, _ = heard[attention]
    whole = _hidden(*heard[attention.o_proj][:2])
    own = {name: getattr(attention, name) for name in cut}
    number = attention.layer_idx
    read: list[Tensor] = []
    try:
        for name, (outputs, inputs) in cut.items():
            setattr(attention, name, _sliced(own[name], outputs, inputs))
        attention.layer_idx = 0
        attention.o_proj.register_forward_pre_hook(lambda module, args: read.append(args[0]))
        attention(*args, **kwargs)
    finally:
        attention.layer_idx = number
        for name, module in own.items():
            setattr(attention, name, module)
    _require_close(read[0], whole[..., :group], f"attention of {where} with one KV group")


def _sliced(linear: Any, outputs: int | None, inputs: int | None) -> nn.Linear:
    weight = linear.weight[:outputs, :inputs]
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=linear.bias is not None, device="meta")
    made.weight = nn.Parameter(weight)
    if linear.bias is not None:
        made.bias = nn.Parameter(linear.bias[:outputs])
    return made


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def _first(output: Any) -> Tensor:
    result: Tensor = output[0] if isinstance(output, tuple) else output
    return result


def _require_close(found: Tensor, expected: Tensor, what: str) -> None:
    tolerance = 1e-3 if found.dtype == torch.float32 else 3e-2  # of the largest value
    if found.shape != expected.shape or not (found - expected).abs().max() <= tolerance * expected.abs().max():
        raise _Unlike(f"{what} is something else than in Llama")
