"""Whether a folder for vLLM holds what it was written from: transformers builds it as vLLM does, and computes with it.

vLLM itself is not run: it needs another transformers than this project, and mostly a GPU.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from evaluators.text.positions import most_positions
from nas_engine.deploy.agreement import LIKELIEST
from nas_engine.deploy.exported import Check
from nas_engine.errors import ExportError
from nas_engine.families import modeling_subnetwork as runtime

TOLERANCE = 1e-3  # nats; the arithmetic is the same


@torch.no_grad()
def checked_folder(
    model: PreTrainedModel,
    folder: Path,
    architecture: type[PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype,
    texts: Sequence[str],
) -> Check:
    """How far the model in `folder` is from `model`, whose weights were rounded to `dtype` there.

    Raises:
        ExportError: a tensor is missing or of another shape, or it computes something else.
    """
    settings: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    loader: Any = architecture  # transformers' types know no loading info
    loaded, report = loader.from_pretrained(folder, **settings)
    wrong = sorted(str(key) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in report[kind])
    if wrong:
        raise ExportError(f"the folder written for vLLM has other tensors than its configuration says: {wrong[0]}.")
    _require_trunk(model, loaded.config)
    rounded = model
    if not model.dtype == dtype == torch.float32:
        rounded = copy.deepcopy(model)
        for parameter in rounded.parameters():
            parameter.data = parameter.to(dtype).float()
    exact, rounding, same, positions = 0.0, 0.0, True, 0
    for text in texts:
        ids = tokenizer(text)["input_ids"][: most_positions(model)]
        if not ids:
            continue
        of_loaded, of_rounded, of_model = (_log_probabilities(m, ids) for m in (loaded, rounded, model))
        likeliest = of_rounded.topk(min(LIKELIEST, of_rounded.shape[-1])).indices
        exact = max(exact, _largest(of_loaded - of_rounded, likeliest))
        rounding = max(rounding, _largest(of_loaded - of_model, likeliest))
        taken = of_loaded.argmax(-1, keepdim=True)
        same &= bool((of_rounded.gather(-1, taken)[:, 0] >= of_rounded.amax(-1) - 2 * TOLERANCE).all())
        positions += len(ids)
    if not exact <= TOLERANCE or not same:
        raise ExportError(
            f"the folder written for vLLM gives log-probabilities that differ by up to {exact:.3g} nats from the "
            f"model's, where at most {TOLERANCE:g} is expected. No folder was kept."
        )
    return Check(exact, exact, rounding, same, TOLERANCE, positions)


def _require_trunk(model: PreTrainedModel, config: PreTrainedConfig) -> None:
    """Check the class that vLLM's Transformers backend builds of `model`, which has no output head."""
    named = (getattr(config, "auto_map", None) or {}).get("AutoModel")
    if named is None:  # vLLM has a class of its own for it
        return
    with torch.device("meta"):
        trunk = getattr(runtime, named.rpartition(".")[2])(config)
    shapes, expected = ({name: t.shape for name, t in of.state_dict().items()} for of in (trunk, model.base_model))
    if shapes != expected:
        raise ExportError("the folder written for vLLM builds other sizes without its output head. No folder was kept.")


def _log_probabilities(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """Log-probabilities of the next token at every position, shape (tokens, vocabulary)."""
    logits: Tensor = model(torch.tensor([ids], device=model.device)).logits[0]
    return logits.float().log_softmax(-1).cpu()


def _largest(difference: Tensor, likeliest: Tensor) -> float:
    return float(difference.gather(-1, likeliest).abs().max())
