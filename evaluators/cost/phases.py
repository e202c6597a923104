"""What a cost model is asked about: so many sequences, of so many tokens, being read or continued."""

from __future__ import annotations

from typing import get_args

from evaluators.checks import require_at_least, require_one_of
from evaluators.latency.workload import Phase
from evaluators.operators.operator import Operator
from evaluators.protocol import Subnetwork


def require_workload(batch: int, tokens: int, phase: str) -> None:
    """Check a workload as `operators_of` takes it.

    Raises:
        ValueError: `batch` or `tokens` below 1, or an unknown phase.
    """
    require_at_least(1, batch=batch, tokens=tokens)
    require_one_of(get_args(Phase), phase=phase)


def operators_of(subnet: Subnetwork, batch: int, tokens: int, phase: Phase) -> list[Operator]:
    """The operators of one forward pass, the phases being those of `Latency`.

    Args:
        subnet: whose operators.
        batch: sequences at once.
        tokens: length of each; in the decode phase, how many are cached.
        phase: ``prefill`` reads `tokens` tokens, ``decode`` computes one more after them.
    """
    if phase == "prefill":
        return subnet.operators(batch, tokens)
    return subnet.operators(batch, 1, past=tokens)
