"""Tiny super-networks over real models, for tests."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nas_engine.supernet import SuperNetwork
from search_spaces import attention_heads, experts, layer_skip, lora_rank, mlp_width
from tests.tiny import (
    tiny_bert,
    tiny_bloom,
    tiny_gemma2,
    tiny_gemma3,
    tiny_gemma4,
    tiny_gemma4_shared,
    tiny_gpt2,
    tiny_llama,
    tiny_mistral,
    tiny_mixtral,
    tiny_mpt,
    tiny_opt,
    tiny_phi3,
    tiny_qwen2,
    tiny_qwen3,
    tiny_qwen3_5,
    tiny_qwen3_moe,
    tiny_smollm3,
    tiny_tokenizer,
)

FAMILIES = {
    "bert": tiny_bert,
    "bloom": tiny_bloom,
    "gemma2": tiny_gemma2,
    "gemma3": tiny_gemma3,
    "gpt2": tiny_gpt2,
    "llama": tiny_llama,
    "mistral": tiny_mistral,
    "mpt": tiny_mpt,
    "opt": tiny_opt,
    "phi3": tiny_phi3,
    "qwen2": tiny_qwen2,
    "qwen3": tiny_qwen3,
    "smollm3": tiny_smollm3,
}
MIXTURES = {"mixtral": tiny_mixtral, "qwen3_moe": tiny_qwen3_moe}  # of experts
# Of several kinds of attention.
HYBRIDS = {"gemma4": tiny_gemma4, "gemma4_shared": tiny_gemma4_shared, "qwen3_5": tiny_qwen3_5}
TOKENS = torch.arange(2, 26).view(2, 12)  # (rows, tokens)
DECODERS = [family for family in FAMILIES if family != "bert"]
CALIBRATION = [{"input_ids": torch.arange(2, 22).view(2, 10), "attention_mask": torch.ones(2, 10)}]
_TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
_SHARE = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))
SPACE = lora_rank((4, 2), _TARGETS, _SHARE, skip_missing=True) + mlp_width((1.0, 0.75, 0.5))
EVERY_DIMENSION = SPACE + attention_heads((1.0, 0.5)) + layer_skip()
OF_HYBRIDS = SPACE + layer_skip(("mlp",))
OF_MIXTURES = EVERY_DIMENSION + experts((1.0, 0.5))
EVERY_FAMILY = FAMILIES | MIXTURES | HYBRIDS


def whole_space(family: str):
    """Every dimension that a family of `EVERY_FAMILY` takes."""
    return OF_MIXTURES if family in MIXTURES else OF_HYBRIDS if family in HYBRIDS else EVERY_DIMENSION


def supernetwork(model: PreTrainedModel, space=SPACE, **settings) -> SuperNetwork:
    """An untrained super-network over `model`, every projection elastic."""
    return SuperNetwork.from_pretrained(model, space, tiny_tokenizer(), **settings)


def random_adapters(supernet: SuperNetwork, seed: int = 0) -> SuperNetwork:
    """The same with adapters that matter, as after training."""
    generator = torch.Generator().manual_seed(seed)
    for layer in supernet.elastic_linears.values():
        if layer.lora_B is not None:
            drawn = torch.empty(layer.lora_B.shape).normal_(std=0.1, generator=generator)  # the same on every device
            layer.lora_B.data.copy_(drawn)
    return supernet


@torch.inference_mode()
def smallest(supernet: SuperNetwork):
    """Its smallest sub-network."""
    return supernet.subnetwork(supernet.space.configuration(supernet.space.smallest))


def logits(model: nn.Module) -> Tensor:
    """What `model` computes on `TOKENS`, shape (rows, tokens, vocabulary)."""
    return model.eval()(TOKENS).logits.clone()
