"""Texts with their labels, as a classifier reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.text.examples import TextPair
from evaluators.text.halving import Halving
from evaluators.text.positions import most_positions
from search_spaces.fingerprint import fingerprint_of


@dataclass(frozen=True)
class Labelled:
    """A text, or a pair of them, with its label.

    Args:
        text: such as a sentence, or a premise.
        label: the index of a class; a number where a model predicts one.
        second: the other text of a pair, such as a hypothesis.
    """

    text: str
    label: int | float
    second: str | None = None


Learnable = TextPair | Labelled
"""What a model learns from: a completion of a prompt, or the label of a text."""


def of_two_or_more(examples: Iterable[Labelled]) -> tuple[Labelled, ...]:
    """`examples`, checked.

    Raises:
        ValueError: fewer than two, or an empty text (its position is named).
    """
    found = tuple(examples)
    if len(found) < 2:
        raise ValueError(f"examples holds {len(found)}; give two or more, so that errors can be estimated.")
    for i, example in enumerate(found, start=1):
        if not example.text.strip() or (example.second is not None and not example.second.strip()):
            raise ValueError(f"example {i} has an empty text; leave it out.")
    return found


def digest(examples: Sequence[Labelled]) -> str:
    """16 hexadecimal digits of texts and labels."""
    data = [[e.text, e.second, e.label] for e in examples]
    return fingerprint_of(data)


def encoded_pairs(
    examples: Sequence[Labelled], tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> list[dict[str, list[int]]]:
    """What a model reads of each example: `input_ids`, and `token_type_ids` where the tokenizer gives them; what is
    longer than `max_tokens` is cut off.
    """
    rows = []
    for example in examples:
        found = tokenizer(example.text, example.second, truncation=True, max_length=max_tokens)
        rows.append({name: list(found[name]) for name in ("input_ids", "token_type_ids") if name in found})
    return rows


def padded(rows: Sequence[dict[str, list[int]]], pad: int, device: torch.device) -> dict[str, Tensor]:
    """Padded right: `input_ids`, `attention_mask`, and `token_type_ids` where there are any, (rows, longest)."""
    longest = max(len(row["input_ids"]) for row in rows)
    filled = {
        name: torch.tensor(
            [row[name] + [pad if name == "input_ids" else 0] * (longest - len(row[name])) for row in rows]
        )
        for name in rows[0]
    }
    mask = [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows]
    return {name: tensor.to(device) for name, tensor in (filled | {"attention_mask": torch.tensor(mask)}).items()}


def require_classifier(model: PreTrainedModel, labels: Iterable[int | float], training: bool = False) -> None:
    """Check that `model` ends in a classifier of these labels; in `training` it may be in training mode.

    Raises:
        ValueError: it does not, is in training mode, or has fewer classes.
    """
    if "ForSequenceClassification" not in type(model).__name__:
        raise ValueError(f"{type(model).__name__} gives no label to a text; load one for sequence classification.")
    if model.training and not training:
        raise ValueError("the model is in training mode, where dropout changes its scores; call model.eval() first.")
    most = int(model.config.num_labels or 0)
    for label in labels:
        if most == 1 and not isinstance(label, float):
            raise ValueError(f"a label is {label!r}, but the model gives one number to a text; give floats.")
        if most > 1 and not (isinstance(label, int) and 0 <= label < most):
            raise ValueError(f"a label is {label!r}, but the model has the classes 0 to {most - 1}.")


def require_short(model: PreTrainedModel, max_tokens: int) -> None:
    """Check that `model` reads texts of `max_tokens`.

    Raises:
        ValueError: it does not.
    """
    most = most_positions(model)
    if most is not None and max_tokens > most:
        raise ValueError(f"max_tokens is {max_tokens}, but the model reads {most}; give at most that many.")


@torch.inference_mode()
def outputs(model: PreTrainedModel, rows: Sequence[dict[str, list[int]]], pad: int, budget: Halving) -> Tensor:
    """What a classifier says of each row, shape (rows, classes), fp64 on the CPU.

    Args:
        model: for sequence classification, in evaluation mode.
        rows: as `encoded_pairs` gives them.
        pad: fills shorter rows.
        budget: tokens of one batch with its padding; changes no output by more than rounding.
    """
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"]))
    found: dict[int, Tensor] = {}
    while len(found) < len(order):
        for i, said in budget.run(lambda tokens: list(_batch(model, rows, order, len(found), pad, tokens))):
            found[i] = said
    return torch.stack([found[i] for i in range(len(rows))])


def _batch(
    model: PreTrainedModel, rows: Sequence[dict[str, list[int]]], order: Sequence[int], done: int, pad: int, tokens: int
) -> Iterator[tuple[int, Tensor]]:
    longest = len(rows[order[done]]["input_ids"])
    chosen = order[done : done + max(1, tokens // longest)]
    logits = model(**padded([rows[i] for i in chosen], pad, model.device)).logits
    yield from zip(chosen, logits.double().cpu(), strict=True)
