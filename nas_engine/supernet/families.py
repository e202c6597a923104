"""Which module of a decoder is which projection. A family is data: adding one needs no forward code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn
from transformers import PreTrainedModel

from nas_engine.supernet.elastic import ElasticLinear
from nas_engine.supernet.errors import FamilyError
from search_spaces import ModelShape

_LLAMA_PROJECTIONS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


@dataclass(frozen=True)
class Family:
    """Where a decoder keeps its layers and their projections.

    Args:
        model_type: the `model_type` of its Hugging Face configuration.
        layers: path of the list of decoder layers inside the causal language model.
        projections: path of each projection inside a layer, by the name that spaces use.
    """

    model_type: str
    layers: str = "model.layers"
    projections: Mapping[str, str] = field(default_factory=lambda: dict(_LLAMA_PROJECTIONS))

    def path(self, module: str) -> str:
        """The path in the model of a space's module, such as ``layers.3.up``."""
        _, layer, projection = module.split(".")
        return f"{self.layers}.{layer}.{self.projections[projection]}"

    def shape(self, model: PreTrainedModel) -> ModelShape:
        """What a search space needs to know of `model`; of elastic layers, their active sizes."""
        layers = len(model.get_submodule(self.layers))  # type: ignore[arg-type]
        ups = [model.get_submodule(self.path(f"layers.{i}.up")) for i in range(layers)]
        return ModelShape(tuple(_outputs(up) for up in ups), tuple(self.projections))


def _outputs(module: nn.Module) -> int:
    if isinstance(module, ElasticLinear):
        return module.active_out
    assert isinstance(module, nn.Linear), f"a {type(module).__name__} where a linear layer should be"
    return module.out_features


FAMILIES = {
    family.model_type: family for family in map(Family, ("gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"))
}


def family_of(model: PreTrainedModel) -> Family:
    """The family of `model`.

    Raises:
        FamilyError: no family describes its `model_type`; the supported ones are named.
    """
    model_type = model.config.model_type
    if model_type not in FAMILIES:
        raise FamilyError(
            f"models of type {model_type!r} are not supported; supported are {', '.join(sorted(FAMILIES))}. "
            "A new family is one description in nas_engine/supernet/families.py."
        )
    return FAMILIES[model_type]
