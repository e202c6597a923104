"""Tiny sparse and quantized models, and super-networks over them, for tests."""

import torch
from transformers import PreTrainedModel

from nas_engine.compression import Quantization, quantize_model, sparsify
from nas_engine.supernet import SuperNetwork
from tests.supernets import CALIBRATION, SPACE, random_adapters, supernetwork
from tests.tiny import tiny_llama


def sparse_model(sparsity: float | str = 0.5, **config) -> PreTrainedModel:
    model = tiny_llama(**config)
    sparsify(model, CALIBRATION, sparsity)
    return model


def quantized_model(
    bits: int = 4, group_size: int = 4, symmetric: bool = False, sparsity: float = 0.5
) -> tuple[PreTrainedModel, Quantization]:
    model = sparse_model(sparsity)
    return model, quantize_model(model, CALIBRATION, bits, group_size, symmetric)


def shears(space=SPACE) -> SuperNetwork:
    return random_adapters(supernetwork(sparse_model(), space))


def sparse_peft(space=SPACE) -> SuperNetwork:
    return random_adapters(supernetwork(sparse_model(), space, adapter_mode="masked"))


def sqft(space=SPACE) -> SuperNetwork:
    model, quantization = quantized_model()
    return random_adapters(supernetwork(model, space, quantization=quantization))


def qa_sparse_peft(space=SPACE, **grid) -> SuperNetwork:
    model, quantization = quantized_model(**grid)
    return random_adapters(supernetwork(model, space, adapter_mode="quantized", quantization=quantization))


def zeros(model: torch.nn.Module) -> dict[str, int]:
    """Zeros of every matrix, by name."""
    return {name: int((p == 0).sum()) for name, p in model.named_parameters() if p.ndim == 2}
