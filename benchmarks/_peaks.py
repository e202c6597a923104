"""Seconds and the most memory of a stage: of a GPU's allocator, or what is resident of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_STATUS = Path("/proc/self/status")
_EVERY = 0.005  # seconds between looks at this process's memory


def held(device: str) -> int:
    """Bytes held now."""
    if device.startswith("cuda"):
        return int(torch.cuda.memory_allocated(device))
    lines = (line.split() for line in _STATUS.read_text(encoding="utf-8").splitlines())
    return next(1024 * int(line[1]) for line in lines if line[0] == "VmRSS:")


class Stages:
    """What stages took, by name.

    Args:
        device: whose memory counts.

    Attributes:
        found: by stage, `seconds`, `processor_seconds`, and `gigabytes` at its peak, over what this process held
            before the first.
    """

    def __init__(self, device: str) -> None:
        self.device, self.found = device, {}  # type: str, dict[str, dict[str, float]]
        self._before = held(device)

    @contextmanager
    def stage(self, name: str, times: int = 1) -> Iterator[None]:
        """Measure what is inside, done so many times."""
        peak, ended = [held(self.device)], threading.Event()

        def watch() -> None:
            while not ended.wait(_EVERY):
                peak.append(max(peak.pop(), held(self.device)))

        watcher = threading.Thread(target=watch, daemon=True)
        cuda = self.device.startswith("cuda")
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            watcher.start()
        started, processor = time.perf_counter(), time.process_time()
        yield
        if cuda:
            torch.cuda.synchronize(self.device)
        seconds, processor = time.perf_counter() - started, time.process_time() - processor
        ended.set()
        if not cuda:
            watcher.join()
        most = torch.cuda.max_memory_allocated(self.device) if cuda else max(*peak, held(self.device))
        figures: dict[str, Any] = {"seconds": seconds / times, "processor_seconds": processor / times}
        figures["gigabytes"] = (most - self._before) / 1e9
        self.found[name] = {key: round(value, 4) for key, value in figures.items()}
        print(f"{name:24} {self.found[name]}", flush=True)
