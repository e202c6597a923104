"""A decoder whose layers have MLPs of different intermediate sizes.

This file is saved beside the weights of such a model, so that `AutoModelForCausalLM.from_pretrained(folder,
trust_remote_code=True)` loads it anywhere transformers runs. It imports nothing else. `Subnetwork<Architecture>`, such
as `SubnetworkLlamaForCausalLM`, is the stock architecture with the sizes that `config.subnetwork_layers` lists.
"""

import transformers
from torch import nn

_PREFIX = "Subnetwork"


class _PerLayerSizes:
    """Resizes the MLPs that the stock constructor built, before any weight is loaded."""

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        for layer, sizes in zip(self.model.layers, config.subnetwork_layers, strict=True):
            width = sizes["intermediate_size"]
            mlp = layer.mlp
            mlp.intermediate_size = width
            mlp.gate_proj = nn.Linear(config.hidden_size, width, bias=mlp.gate_proj.bias is not None)
            mlp.up_proj = nn.Linear(config.hidden_size, width, bias=mlp.up_proj.bias is not None)
            mlp.down_proj = nn.Linear(width, config.hidden_size, bias=mlp.down_proj.bias is not None)


def __getattr__(name):
    stock = getattr(transformers, name.removeprefix(_PREFIX), None) if name.startswith(_PREFIX) else None
    if stock is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    attributes = {"__module__": __name__, "_auto_class": "AutoModelForCausalLM"}
    globals()[name] = type(name, (_PerLayerSizes, stock), attributes)
    return globals()[name]
