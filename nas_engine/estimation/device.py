"""What a device has free, and how fast it multiplies: looked at, and measured for a fraction of a second."""

from __future__ import annotations

import time

import psutil
import torch

_SIZE = 1024  # rows and columns that are multiplied
_SECONDS = 0.3
_ATTAINED = 0.6  # of that by whole layers, whose norms, activations and small products are slower


def free_bytes(device: str) -> int:
    """Memory that is free on `device` now."""
    where = torch.device(device)
    return torch.cuda.mem_get_info(where)[0] if where.type == "cuda" else psutil.virtual_memory().available


def operations_a_second(device: str, dtype: torch.dtype) -> float:
    """Additions and multiplications that layers of a model do on `device` in a second, about."""
    matrix = torch.randn(_SIZE, _SIZE, device=device).to(dtype)
    _wait(device, matrix @ matrix)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < _SECONDS:
        _wait(device, matrix @ matrix)
        count += 1
    return _ATTAINED * 2 * count * _SIZE**3 / (time.perf_counter() - started)


def _wait(device: str, result: torch.Tensor) -> None:
    if torch.device(device).type != "cpu":
        float(result[0, 0])
