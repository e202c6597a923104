"""How much a job does, in the numbers by which its memory and time are counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class JobSize:
    """How often, how many and how long.

    Args:
        batch_size: examples of a training batch.
        longest: tokens of the longest example.
        mean: tokens of an example.
        answers: labelled tokens of an example at most.
        lora_steps: of plain LoRA on the whole model.
        steps: in which sub-networks take turns.
        refit: whether narrower widths are fitted, so that they are held.
        generated_tokens: that the model reads and writes by itself, as calibration texts.
        calibration_tokens: by which channels are ordered and widths fitted.
        evaluations: sub-networks that are measured.
        evaluation_tokens: that one of them reads.
        hints: examples by which sensitivity is measured.
        heal_steps: of a finalist; `finalists` are healed, at least one of them to the end.
        finalists: see `heal_steps`.
        group_size: of the versions that bits and zeros switch between; None where neither varies.
    """

    batch_size: int = 16
    longest: int = 128
    mean: float = 64.0
    answers: int = 32
    lora_steps: int = 0
    steps: int = 0
    refit: bool = True
    generated_tokens: int = 0
    calibration_tokens: int = 20_480
    evaluations: int = 0
    evaluation_tokens: int = 0
    hints: int = 0
    heal_steps: int = 0
    finalists: int = 1
    group_size: int | None = None
