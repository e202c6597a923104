"""What compression costs before any training: GPTQ beside rounding to nearest, Wanda beside magnitudes.

Every projection is quantized on what it reads of calibration texts, and its output error
``||X (W - Ŵ)ᵀ||² / ||X Wᵀ||²`` is taken on what it reads of other texts, dense and at 50 % sparsity. Perplexities,
too, are on texts that the calibration did not see: of the model made sparse (``_refit``: with the kept weights making
up for the zeros), and of the sparse model quantized.

Run as ``python -m benchmarks.quantization_error [--quick] [--data questions.jsonl]``.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks._common import arguments, batch_of, load, print_json, texts
from nas_engine.compression import (
    GridSettings,
    calibrated_layers,
    gptq,
    pattern_of,
    quantize_model,
    round_to_nearest,
    sparsify,
    wanda_mask,
)
from nas_engine.compression.observers import Hessians
from nas_engine.compression.rounding import output_error
from nas_engine.compression.sparsification import matrix_of
from nas_engine.texts.batches import Batch

ROWS = 16
METHODS = ("rtn", "gptq", "gptq_act_order")


def batched(lines: list[str], tokenizer: PreTrainedTokenizerBase) -> list[Batch]:
    """Texts of similar length together."""
    lines = sorted(lines, key=len)
    return [batch_of(lines[i : i + ROWS], tokenizer) for i in range(0, len(lines), ROWS)]


@torch.inference_mode()
def perplexity(model: PreTrainedModel, batches: list[Batch]) -> float:
    """Of the tokens that are no padding."""
    loss, count = 0.0, 0
    for batch in batches:
        logits = model(**batch, use_cache=False).logits[:, :-1]
        seen = batch["attention_mask"][:, 1:].bool()
        loss += F.cross_entropy(logits[seen].float(), batch["input_ids"][:, 1:][seen], reduction="sum").item()
        count += int(seen.sum())
    return math.exp(loss / count)


def layer_errors(
    model: PreTrainedModel, calibration: list[Batch], evaluation: list[Batch], settings: GridSettings, sparsity: float
) -> dict[str, dict[str, float]]:
    """The output error on `evaluation` of every projection by method, by the projection's name; `model` stays as it is.

    Args:
        sparsity: of Wanda's mask, put on the weight before it is quantized.
    """
    errors: dict[str, dict[str, float]] = {}
    for layer, other in zip(calibrated_layers(model, calibration), calibrated_layers(model, evaluation), strict=True):
        seen, unseen = Hessians(), Hessians()
        layer.observe(seen)
        other.observe(unseen)
        for projection, linear in layer.projections.items():
            hessian: Tensor = seen[projection]
            weight = matrix_of(linear)
            weight = weight * wanda_mask(weight, hessian.diagonal().sqrt(), pattern_of(sparsity))
            found = {
                "rtn": round_to_nearest(weight, settings),
                "gptq": gptq(weight, hessian, settings),
                "gptq_act_order": gptq(weight, hessian, settings, act_order=True),
            }
            errors[layer.name(projection)] = {
                method: output_error(weight, quantized.weight, unseen[projection])
                for method, quantized in found.items()
            }
    return errors


def summary(errors: dict[str, dict[str, float]]) -> dict[str, float]:
    """The medians, and how often GPTQ is below rounding to nearest."""
    figures: dict[str, float] = {f"median_{m}": statistics.median(e[m] for e in errors.values()) for m in METHODS}
    for method in METHODS[1:]:
        ratios = [e[method] / e["rtn"] for e in errors.values()]
        figures |= {
            f"{method}_below_rtn": sum(r < 1 for r in ratios),
            f"{method}_ratio_median": statistics.median(ratios),
            f"{method}_ratio_worst": max(ratios),
        }
    return {name: round(value, 6) for name, value in figures.items()} | {"projections": len(errors)}


def main() -> None:
    """Measure, and print one JSON object."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, help="a JSONL file of questions; without it, generated problems")
    parser.add_argument("--group-size", type=int, default=0, help="default: 64, or 32 with --quick")
    given = parser.parse_args()
    group_size = given.group_size or (32 if given.quick else 64)

    def fresh() -> PreTrainedModel:
        return load(given.quick)[0]

    model, tokenizer = load(given.quick)
    lines = texts(given.data, *((8, 8) if given.quick else (512, 64)))
    calibration, evaluation = (batched(part, tokenizer) for part in lines)
    figures: dict[str, object] = {"group_size": group_size}

    def note(name: str, value: object) -> None:
        figures[name] = value
        print(name, value, flush=True)

    note("perplexity_dense", round(perplexity(model, evaluation), 3))
    for pattern in (0.5, "2:4"):
        for method, refit in (("wanda", False), ("magnitude", False), ("wanda", True)):
            pruned = fresh()
            sparsify(pruned, calibration, pattern, method, refit)  # type: ignore[arg-type]
            note(f"perplexity_{pattern}_{method}{'_refit' * refit}", round(perplexity(pruned, evaluation), 3))
    for bits, symmetric, sparsity in ((4, False, 0.0), (4, True, 0.0), (4, False, 0.5)):
        settings = GridSettings(bits, group_size, symmetric)
        errors = layer_errors(model, calibration, evaluation, settings, sparsity)
        kind = f"int{bits}_{'symmetric' if symmetric else 'asymmetric'}_{100 * sparsity:g}"
        note(f"errors_{kind}", summary(errors))
    for sparsity in (0.0, 0.5):
        for quantizer in ("rtn", "gptq"):
            pruned = fresh()
            sparsify(pruned, calibration, sparsity)
            quantize_model(pruned, calibration, 4, group_size, symmetric=False, method=quantizer)  # type: ignore[arg-type]
            note(f"perplexity_int4_{100 * sparsity:g}_{quantizer}", round(perplexity(pruned, evaluation), 3))
    print_json(figures)


if __name__ == "__main__":
    main()
