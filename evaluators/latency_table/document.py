"""The file of a latency table, as it is checked when it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import FiniteFloat

from evaluators.latency.workload import Workload


@dataclass(frozen=True)
class _Block:
    size: str
    skipped: FiniteFloat | None
    more_than_largest: dict[str, FiniteFloat]


@dataclass(frozen=True)
class _Costs:
    whole: FiniteFloat
    attention: _Block
    mlp: _Block
    absent: FiniteFloat


@dataclass(frozen=True)
class TableDocument:
    """What a file of `LatencyTable.save` holds."""

    format: Literal[1]
    device: str
    device_type: str
    threads: int
    dtype: str | None
    workload: Workload
    model: dict[str, Any]
    milliseconds: _Costs
    runtime: str | None = None
