"""What a job keeps while it makes a model smaller: accuracy, or another score of it, and how much may be lost."""

from __future__ import annotations

from evaluators import Evaluator, Measurement, sign_of

_WORST = 0.6, 4.0  # of the reference's, of what is to be large and small: beyond, no few steps heal a sub-network


def worth(quality: Evaluator) -> str:
    """The constraint that a sub-network has to keep to be worth healing."""
    least, most = _WORST
    bound = f">= {least}" if sign_of(quality.direction) < 0 else f"<= {most}"
    return f"{quality.name} {bound} * reference"


def lost(quality: Evaluator, reference: Measurement, found: Measurement) -> float:
    """How much worse `found` is than the reference: of what is to be large, such as an accuracy, the difference; of
    what is to be small, such as a perplexity, as a fraction of the reference's.
    """
    if sign_of(quality.direction) < 0:
        return reference.value - found.value
    return (found.value - reference.value) / abs(reference.value) if reference.value else found.value
