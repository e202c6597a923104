"""How much of a model is left when every MLP loses its least important channels, before any training.

Perplexity, and the accuracy of the next token, on texts that the calibration did not see, at 87.5, 75, 62.5 and 50 % of
the MLP width: channels as the checkpoint has them, by the L2 norm of their weights, by Wanda's scores summed over gate,
up and down, and ours (`nas_engine.supernet.ordering`); and with the weights of down fitted to each width, in the order
that goes with it (`nas_engine.supernet.refit`).

Run as ``python -m benchmarks.ordering [--quick] [--data questions.jsonl]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks._common import arguments, batch_of, load, print_json, texts
from nas_engine import SuperNetwork
from nas_engine.supernet.layer import ElasticLayer
from nas_engine.supernet.ordering import input_norms
from nas_engine.texts.batches import Batch
from search_spaces import mlp_width

WIDTHS = (0.875, 0.75, 0.625, 0.5)
Score = Callable[[ElasticLayer], Tensor]  # of every channel, shape (channels,)


def scores(norms: dict[str, Tensor]) -> dict[str, Score]:
    """The orderings by name, given the norm of every input of every projection."""

    def weight_norm(layer: ElasticLayer) -> Tensor:
        gate, up, down = (layer.linears[name].matrix for name in ("gate", "up", "down"))
        return gate.square().sum(1) + up.square().sum(1) + down.square().sum(0)

    def wanda_sum(layer: ElasticLayer) -> Tensor:
        gate, up, down = (
            layer.linears[name].matrix.abs() * norms[f"layers.{layer.index}.{name}"] for name in ("gate", "up", "down")
        )
        return gate.sum(1) + up.sum(1) + down.sum(0)

    return {
        "unordered": lambda layer: -torch.arange(layer.full_width, dtype=torch.float32),
        "weight_norm": weight_norm,
        "wanda_sum": wanda_sum,
        "ours": lambda layer: layer.importance("channels", norms[f"layers.{layer.index}.down"]),
    }


@torch.inference_mode()
def quality(supernet: SuperNetwork, batches: list[Batch]) -> tuple[float, float]:
    """Perplexity and next-token accuracy of the active sub-network on tokens that are no padding."""
    losses, hits, count = 0.0, 0, 0
    for batch in batches:
        logits = supernet.model(**batch, use_cache=False).logits[:, :-1]
        seen = batch["attention_mask"][:, 1:].bool()
        logits, labels = logits[seen].float(), batch["input_ids"][:, 1:][seen]
        losses += F.cross_entropy(logits, labels, reduction="sum").item()
        hits += int((logits.argmax(-1) == labels).sum())
        count += len(labels)
    return math.exp(losses / count), hits / count


def qualities(supernet: SuperNetwork, batches: list[Batch]) -> dict[str, tuple[float, float]]:
    """`quality` at every width, channels as they are."""
    result = {}
    for i, width in enumerate(reversed(WIDTHS)):
        supernet.activate_genome([i] * len(supernet.space))
        result[f"{100 * width:g}"] = quality(supernet, batches)
    return result


@torch.no_grad()
def by_width(supernet: SuperNetwork, score: Score, batches: list[Batch]) -> dict[str, tuple[float, float]]:
    """`quality` at every width with the channels in order of `score`; the original order is put back."""
    for layer in supernet.layers:
        layer.permute("channels", score(layer).argsort(descending=True, stable=True))
    result = qualities(supernet, batches)
    for layer in supernet.layers:
        layer.permute("channels", layer.orders["channels"].argsort())
    return result


def main() -> None:
    """Measure, and print one JSON object."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, help="a JSONL file of questions; without it, generated problems")
    given = parser.parse_args()
    model, tokenizer = load(given.quick)
    calibration, evaluation = texts(given.data, 8 if given.quick else 1024, 8 if given.quick else 96)
    supernet = SuperNetwork.from_pretrained(model, mlp_width((1.0, *WIDTHS)), tokenizer)
    batches = [batch_of(evaluation[i : i + 8], tokenizer) for i in range(0, len(evaluation), 8)]
    calibrating = [batch_of(calibration[i : i + 32], tokenizer) for i in range(0, len(calibration), 32)]
    norms = input_norms(model, supernet.elastic_linears, calibrating)
    original = quality(supernet, batches)
    measured = {name: by_width(supernet, score, batches) for name, score in scores(norms).items()}
    supernet.activate_genome(supernet.space.largest)
    supernet.order_by_importance(calibrating, refit=True)
    measured["ours_refitted"] = qualities(supernet, batches)
    figures = {
        f"{what}_{width}": {"original": round(original[i], 4)}
        | {name: round(at[width][i], 4) for name, at in measured.items()}
        for width in next(iter(measured.values()))
        for i, what in enumerate(("perplexity", "accuracy"))
    }
    print_json(figures)


if __name__ == "__main__":
    main()
