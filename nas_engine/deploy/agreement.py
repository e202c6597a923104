"""Whether a runtime computes what transformers does: log-probabilities, and the tokens taken by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

NEW_TOKENS = 12  # of each text's continuation
LIKELIEST = 10  # tokens of which log-probabilities are compared, at each position
FP32_TOLERANCE = 0.01  # nats, of what is written in fp32


@dataclass(frozen=True)
class Position:
    """What a runtime found at one position.

    Args:
        token: the most probable one.
        log_probabilities: of the most probable tokens, by number, in nats; llama.cpp gives none inside a character of
            several tokens.
    """

    token: int
    log_probabilities: Mapping[int, float]

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Position:
        """What a process of a runtime said of a position."""
        return cls(said["token"], dict(said["likely"]))


@torch.no_grad()
def compared(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    paths: Sequence[list[Position]],
    tolerance: float,
    taken: Sequence[list[int]] | None = None,
) -> tuple[float, bool]:
    """The largest difference of a log-probability, and whether the model takes the same tokens.

    Args:
        model: in transformers.
        prompts: tokens that were read.
        paths: what the runtime found from the last token of each prompt on.
        tolerance: in nats; tokens that are closer than twice this to each other are the same.
        taken: tokens behind each prompt; those that the runtime found likeliest, where it is None.
    """
    largest, same = 0.0, True
    for number, (prompt, path) in enumerate(zip(prompts, paths, strict=True)):
        behind = [position.token for position in path] if taken is None else taken[number]
        ids = torch.tensor([prompt + behind[: len(path) - 1]], device=model.device)
        logits: Tensor = model(ids).logits[0, len(prompt) - 1 :]
        expected = logits.float().log_softmax(-1).cpu()  # (positions, vocabulary)
        for position, row in zip(path, expected, strict=True):
            for token, found in position.log_probabilities.items():
                largest = max(largest, abs(float(row[token]) - found))
            same &= bool(row[position.token] >= row.max() - 2 * tolerance)
    return largest, same
