"""What left for a runtime, and how far the runtime is from transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Weights = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]  # of GGUF
OpenVinoWeights = Literal["f32", "f16", "int8", "int4"]
OnnxWeights = Literal["f32", "int8", "int4"]


@dataclass(frozen=True)
class Check:
    """How far a runtime is from transformers, over the positions of greedy texts and their ten likeliest tokens.

    Args:
        exact: the largest difference of a log-probability with everything in fp32, in nats.
        difference: the largest with the weights as they are stored, in transformers as in the runtime, and with the
            runtime's own settings.
        rounding: the largest from the model before its weights were rounded.
        same_text: transformers would have written the same greedy texts, as far as the tolerance tells tokens apart.
        tolerance: usual as `difference`.
        positions: compared.
    """

    exact: float
    difference: float
    rounding: float
    same_text: bool
    tolerance: float
    positions: int


@dataclass(frozen=True)
class Export:
    """A file that left, or a folder.

    Args:
        file: where it is; what is said here lies beside it as JSON.
        architecture: the runtime's name of it, or the family's.
        weights: what matrices are stored as; None where integers were kept.
        bytes: of the file, or of a folder's graph and weights.
        check: how far the runtime is from transformers; None where it was not asked.
    """

    file: Path
    architecture: str
    weights: str | None
    bytes: int
    check: Check | None
