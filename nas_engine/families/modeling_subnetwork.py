"""A transformer whose layers have sizes of their own, or blocks left out.

This file is saved beside the weights of such a model, so that `from_pretrained(folder, trust_remote_code=True)` loads
it anywhere transformers runs. It imports nothing else. `Subnetwork<Architecture>`, such as
`SubnetworkLlamaForCausalLM`, is the stock architecture changed where `config.subnetwork` says so, by paths of modules;
`SubnetworkLlamaModel`, the same without its output head, finds them under shorter ones:

- ``linears``: outputs and inputs of linear layers that are smaller,
- ``tensors``: weights of mixtures of experts that are smaller,
- ``attributes``: sizes that modules keep,
- ``bypasses``: modules that are left out, and what stands in for them,
- ``head_biases``: attention modules that get a bias for each head, of which some are left.

`DeciLMForCausalLM` is a Llama whose layers differ as `block_configs` say, in the words of vLLM's `nemotron_nas`.
"""

import copy

import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

_PREFIX = "Subnetwork"


class BypassModule(nn.Module):
    """Stands in for a module of a block that is left out. See `nas_engine.families.family.Bypass` for `gives`.

    Attention gives its `layer_idx`: the key-value cache counts positions by its layers, so a skipped one stores a key
    of one channel for every token.
    """

    def __init__(self, gives: str, pair: bool = False, layer_idx: int | None = None) -> None:
        super().__init__()
        self.gives, self.pair, self.layer_idx = gives, pair, layer_idx

    def forward(self, *args, **kwargs):
        """Take what the module takes, give back what leaves the residual stream as it is."""
        hidden = args[0] if args else kwargs["hidden_states"]
        cache = next((kwargs[name] for name in ("past_key_values", "layer_past") if kwargs.get(name) is not None), None)
        if cache is not None and self.layer_idx is not None:
            key = hidden.new_zeros(hidden.shape[0], 1, hidden.shape[1], 1)
            cache.update(key, key, self.layer_idx)
        given = {"zeros": torch.zeros_like, "first": lambda _: hidden, "second": lambda _: args[1]}[self.gives](hidden)
        return (given, None) if self.pair else given


class HeadBiasHook:
    """A forward pre-hook that gives attention the bias of the heads in `keep`, original indices in their order."""

    def __init__(self, argument: str, heads: int, keep: list[int]) -> None:
        self.argument, self.heads, self.keep = argument, heads, keep

    def __call__(self, module, args, kwargs):
        """Choose the heads' slices from the argument."""
        bias = kwargs[self.argument]  # (heads, …) or (batch * heads, …)
        if self.keep != list(range(self.heads)):
            by_head = bias.unflatten(0, (-1, self.heads))
            bias = by_head[:, self.keep].flatten(0, 1)
        return args, kwargs | {self.argument: bias}


def set_attribute(model: nn.Module, path: str, value: int) -> None:
    """Set an attribute by its path; a configuration on the way becomes the module's own first."""
    owner_path, _, name = path.rpartition(".")
    owner = model
    for step in owner_path.split("."):
        if step == "config":
            owner.config = copy.copy(owner.config)
        owner = getattr(owner, step)
    setattr(owner, name, value)


def _replace(model, path, module):
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _resized(linear, outputs, inputs):
    if isinstance(linear, Conv1D):
        return Conv1D(outputs, inputs)
    return nn.Linear(inputs, outputs, bias=linear.bias is not None)


class _Changed:
    """Changes what the stock constructor built, before any weight is loaded."""

    @classmethod
    def is_custom_code(cls):
        """Files hold weights as the stock architecture's do, each expert's apart: its conversions are for these too."""
        return False

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        # Paths are those in the model with its head; a model without one is what they begin with.
        prefix = "" if hasattr(self, self.base_model_prefix) else f"{self.base_model_prefix}."
        changes = {
            kind: {path.removeprefix(prefix): value for path, value in by_path.items()}
            for kind, by_path in config.subnetwork.items()
        }
        for path, (outputs, inputs) in changes["linears"].items():
            _replace(self, path, _resized(self.get_submodule(path), outputs, inputs))
        for path, shape in changes.get("tensors", {}).items():
            owner, _, name = path.rpartition(".")
            setattr(self.get_submodule(owner), name, nn.Parameter(torch.empty(shape)))
        for path, value in changes["attributes"].items():
            set_attribute(self, path, value)
        for path, arguments in changes["bypasses"].items():
            _replace(self, path, BypassModule(**arguments))
        for path, arguments in changes["head_biases"].items():
            self.get_submodule(path).register_forward_pre_hook(HeadBiasHook(**arguments), with_kwargs=True)


def _auto_class(name):
    """What transformers loads an architecture of this name by."""
    if "Classification" in name:
        return "AutoModelForSequenceClassification"
    return "AutoModelForCausalLM" if name.endswith(("ForCausalLM", "LMHeadModel")) else "AutoModel"


class BlockConfig(dict):
    """A part of a configuration: JSON that is read by attributes, as vLLM reads it. What is not there has none."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class DeciLMConfig(transformers.LlamaConfig):
    """Of a Llama, and of each layer in `block_configs` what of attention and MLP is there, and how wide the MLP is."""

    model_type = "nemotron-nas"
    _auto_class = "AutoConfig"

    def __init__(self, block_configs=(), **kwargs):
        super().__init__(**kwargs)
        self.block_configs = [
            BlockConfig({name: BlockConfig(part) for name, part in block.items()}) for block in block_configs
        ]

    @property
    def subnetwork(self):
        """What is changed in the stock architecture. A block that is not there has no norm before it either."""
        changes = {"linears": {}, "attributes": {}, "bypasses": {}, "head_biases": {}}
        for index, block in enumerate(self.block_configs):
            layer = f"model.layers.{index}."
            if block.attention.no_op:
                changes["bypasses"][f"{layer}input_layernorm"] = {"gives": "first"}
                changes["bypasses"][f"{layer}self_attn"] = {"gives": "zeros", "pair": True, "layer_idx": index}
            if block.ffn.no_op:
                changes["bypasses"][f"{layer}post_attention_layernorm"] = {"gives": "first"}
                changes["bypasses"][f"{layer}mlp"] = {"gives": "zeros"}
            else:
                width, hidden = block.ffn.intermediate_size, self.hidden_size
                changes["linears"] |= {f"{layer}mlp.{name}": (width, hidden) for name in ("gate_proj", "up_proj")}
                changes["linears"][f"{layer}mlp.down_proj"] = (hidden, width)
        return changes


class DeciLMForCausalLM(_Changed, transformers.LlamaForCausalLM):
    """A Llama whose layers differ, named as vLLM names it."""

    config_class = DeciLMConfig
    _auto_class = "AutoModelForCausalLM"


def __getattr__(name):
    stock = getattr(transformers, name.removeprefix(_PREFIX), None) if name.startswith(_PREFIX) else None
    if stock is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = type(name, (_Changed, stock), {"__module__": __name__, "_auto_class": _auto_class(name)})
    return globals()[name]
