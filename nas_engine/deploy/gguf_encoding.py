"""A weight as GGUF stores it, row by row: floating point, or blocks of 32 along the inputs."""

from __future__ import annotations

import gguf
import numpy as np
import torch
from torch import Tensor

from nas_engine.compression.grid import Grid, quantize
from nas_engine.deploy.exported import Weights
from nas_engine.deploy.gguf_architecture import GGUF_BLOCK
from nas_engine.errors import ExportError

_TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
}
Encoded = tuple[np.ndarray, gguf.GGMLQuantizationType]  # rows as they are stored, one an output


def require_blocks(inputs: int, weights: str, where: str) -> None:
    """Check that a row of `inputs` is a whole number of blocks.

    Raises:
        ExportError: it is not.
    """
    if weights.startswith("q") and inputs % GGUF_BLOCK:
        raise ExportError(
            f"{where} has {inputs} inputs, and {weights} stores blocks of {GGUF_BLOCK}; "
            f"choose sizes in multiples of {GGUF_BLOCK}, or weights='f16'."
        )


def encoded(weight: Tensor, weights: Weights) -> Encoded:
    """`weight` of shape (outputs, inputs) or (sizes,), rounded to the nearest that is stored."""
    kind = _TYPES[weights]
    values = weight.detach().to("cpu", torch.float32).numpy()
    return gguf.quants.quantize(values, kind), kind


def on_grid(weight: Tensor, grid: Grid, where: str) -> Encoded:
    """`weight` of shape (outputs, inputs), which lies on `grid`, as the same integers; scales become fp16.

    Raises:
        ExportError: GGUF has no blocks of this kind.
    """
    s = grid.settings
    if s.group_size % GGUF_BLOCK or (s.bits == 8 and not s.symmetric):
        kind = f"{s.bits} bits in {'' if s.symmetric else 'a'}symmetric groups of {s.group_size}"
        raise ExportError(
            f"{where} has {kind}; GGUF's blocks hold {GGUF_BLOCK} weights, of 8 bits symmetric ones alone. "
            "Choose weights='f16', or quantize in groups of 32."
        )
    outputs = weight.shape[0]
    integers = quantize(weight.detach(), grid).cpu().numpy().reshape(outputs, -1, GGUF_BLOCK)  # (outputs, blocks, 32)
    repeats = s.group_size // GGUF_BLOCK
    scale = grid.scale.float().cpu().numpy().repeat(repeats, 1)[..., None]  # (outputs, blocks, 1)
    if s.bits == 8:
        return _joined(scale.astype(np.float16), integers), gguf.GGMLQuantizationType.Q8_0
    nibbles = (integers + 8).astype(np.uint8)
    packed = nibbles[..., : GGUF_BLOCK // 2] | nibbles[..., GGUF_BLOCK // 2 :] << 4
    if s.symmetric:
        return _joined(scale.astype(np.float16), packed), gguf.GGMLQuantizationType.Q4_0
    zero_point = grid.zero_point.float().cpu().numpy().repeat(repeats, 1)[..., None]
    least = -scale * (zero_point + 8)  # what the integer 0 stands for
    header = np.concatenate([scale, least], -1).astype(np.float16)
    return _joined(header, packed), gguf.GGMLQuantizationType.Q4_1


def dequantized(stored: Encoded) -> Tensor:
    """The weight that is stored, in fp32."""
    array, kind = stored
    return torch.from_numpy(np.ascontiguousarray(gguf.quants.dequantize(array, kind), dtype=np.float32))


def _joined(header: np.ndarray, integers: np.ndarray) -> np.ndarray:
    parts = [np.ascontiguousarray(part).view(np.uint8) for part in (header, integers)]
    return np.concatenate(parts, -1).reshape(header.shape[0], -1)
