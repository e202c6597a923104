"""Tiny super-networks over real models, for tests."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nas_engine.supernet import SuperNetwork
from search_spaces import lora_rank, mlp_width
from tests.tiny import tiny_gemma2, tiny_gemma3, tiny_llama, tiny_mistral, tiny_qwen2, tiny_qwen3, tiny_tokenizer

FAMILIES = {
    "gemma2": tiny_gemma2,
    "gemma3": tiny_gemma3,
    "llama": tiny_llama,
    "mistral": tiny_mistral,
    "qwen2": tiny_qwen2,
    "qwen3": tiny_qwen3,
}
TOKENS = torch.arange(2, 26).view(2, 12)  # (rows, tokens)
SPACE = lora_rank((4, 2), targets=("q", "k", "v", "o", "gate", "up", "down")) + mlp_width((1.0, 0.75, 0.5))


def supernetwork(model: PreTrainedModel, space=SPACE, **settings) -> SuperNetwork:
    """An untrained super-network over `model`, every projection elastic."""
    return SuperNetwork.from_pretrained(model, space, tiny_tokenizer(), **settings)


def random_adapters(supernet: SuperNetwork, seed: int = 0) -> SuperNetwork:
    """The same with adapters that matter, as after training."""
    generator = torch.Generator().manual_seed(seed)
    for layer in supernet.elastic_layers.values():
        if layer.lora_B is not None:
            nn.init.normal_(layer.lora_B, std=0.1, generator=generator)
    return supernet


@torch.inference_mode()
def logits(model: nn.Module) -> Tensor:
    """What `model` computes on `TOKENS`, shape (rows, tokens, vocabulary)."""
    return model.eval()(TOKENS).logits.clone()
