"""What is to leave for a runtime, what left, and how far the runtime is from transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

if TYPE_CHECKING:
    from nas_engine.compression.grid import Grid

Weights = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]  # of GGUF
OpenVinoWeights = Literal["f32", "f16", "int8", "int4"]
OnnxWeights = Literal["f32", "int8", "int4"]
Logits = Literal["last", "all"]


@dataclass(frozen=True)
class ExportRequest:
    """What `nas_engine.export` is asked for, which says more.

    Args:
        model: an extracted sub-network, or any of a known family.
        tokenizer: its own.
        file: to write, or folder.
        weights: what matrices are stored as; None keeps the integers of quantized ones.
        grids: of quantized matrices, by path in `model`.
        texts: on which the runtime is compared with transformers.
        check: whether it is.
        logits: that a graph gives.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    file: Path
    weights: str | None
    grids: Mapping[str, Grid]
    texts: Sequence[str]
    check: bool
    logits: Logits = "last"


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
