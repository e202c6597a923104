"""Whether OpenVINO or ONNX Runtime computes from a graph what transformers computes from the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from evaluators.text.positions import most_positions
from nas_engine.deploy.agreement import FP32_TOLERANCE, LIKELIEST, NEW_TOKENS, Position, compared
from nas_engine.deploy.exported import Check
from nas_engine.deploy.graph_runtimes import GraphRuntime
from nas_engine.errors import ExportError


def prompts_of(encoded: Sequence[list[int]], model: PreTrainedModel) -> list[list[int]]:
    """As much of each text as the model reads with the new tokens behind it."""
    positions = most_positions(model)
    most = None if positions is None else max(1, positions - NEW_TOKENS - 1)
    return [tokens[:most] for tokens in encoded if tokens]


def require_exact(runtime: GraphRuntime, model: PreTrainedModel, folder: Path, prompts: Sequence[list[int]]) -> Check:
    """Check that `runtime` computes from the graph in `folder`, written in fp32, what transformers does.

    Raises:
        ExportError: it does not load, or computes something else, with its cache or without.
    """
    exact, same_text, positions = _measured(runtime, model, folder, prompts, FP32_TOLERANCE, exact=True)
    if not exact <= FP32_TOLERANCE or not same_text:
        raise ExportError(
            f"{runtime.title} computes log-probabilities that differ by up to {exact:.3g} nats from transformers in "
            f"fp32, where at most {FP32_TOLERANCE:g} is expected, and {'the same' if same_text else 'another'} text. "
            "Nothing was kept."
        )
    return Check(exact, exact, exact, same_text, FP32_TOLERANCE, positions)


def compared_as_stored(
    runtime: GraphRuntime,
    model: PreTrainedModel,
    stored: PreTrainedModel,
    weights: str | None,
    folder: Path,
    prompts: Sequence[list[int]],
    exact: float,
) -> Check:
    """How far `runtime` is, with its own settings, from `stored`, whose weights are as in the graph, and from `model`.

    Raises:
        ExportError: it does not load.
    """
    tolerance = runtime.tolerances[weights]
    paths, _, taken = _paths(runtime, folder, prompts, exact=False)
    difference, same_text = compared(stored, prompts, paths, tolerance, taken)
    rounding = difference if stored is model else compared(model, prompts, paths, tolerance, taken)[0]
    return Check(exact, difference, rounding, same_text, tolerance, sum(map(len, paths)))


def _measured(
    runtime: GraphRuntime,
    model: PreTrainedModel,
    folder: Path,
    prompts: Sequence[list[int]],
    tolerance: float,
    exact: bool,
) -> tuple[float, bool, int]:
    cached, whole, taken = _paths(runtime, folder, prompts, exact)
    found = [compared(model, prompts, paths, tolerance, taken) for paths in (cached, whole)]
    return max(far for far, _ in found), all(same for _, same in found), sum(map(len, cached))


def _paths(
    runtime: GraphRuntime, folder: Path, prompts: Sequence[list[int]], exact: bool
) -> tuple[list[list[Position]], list[list[Position]], list[list[int]]]:
    """Token by token, all at once, and the tokens that were taken."""
    settings = {"call": "continued", "new_tokens": NEW_TOKENS, "top": LIKELIEST}
    calls = [{"file": 0, "prompt": list(prompt)} | settings for prompt in prompts]
    answers = runtime.answers([folder], calls, exact=exact)
    cached, whole = ([[Position.of(at) for at in answer[kind]] for answer in answers] for kind in ("cached", "whole"))
    return cached, whole, [[position.token for position in path] for path in cached]
