"""What a network says at the answers, and how far that is from what it should say. Pure functions of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from evaluators.text.head import logits_of
from nas_engine.texts.batches import by_regime
from nas_engine.texts.examples import IGNORED


@dataclass(frozen=True)
class Predictions:
    """What a network says of a batch.

    Args:
        logits: where a labelled token is predicted, shape (labelled tokens, vocabulary); of a classifier, (texts,
            classes), or (texts, 1) where it gives numbers.
        labels: the tokens there, shape (labelled tokens,); of a classifier, classes or numbers of shape (texts,).
        states: the last hidden states of all tokens that are no padding, shape (tokens, hidden).
    """

    logits: Tensor
    labels: Tensor
    states: Tensor

    @property
    def numbers(self) -> bool:
        """Whether numbers are predicted, and not one of several things."""
        return self.labels.is_floating_point()

    @property
    def loss(self) -> Tensor:
        """Mean cross-entropy of what is labelled in nats, or the mean squared error of numbers."""
        if self.numbers:
            return F.mse_loss(self.logits[:, 0].float(), self.labels)
        return F.cross_entropy(self.logits, self.labels)

    def imitating(self, other: Predictions) -> Tensor:
        """As `loss`, of the distribution, or the numbers, that another predicts; gradients do not reach it."""
        if self.numbers:
            return F.mse_loss(self.logits, other.logits.detach())
        return F.cross_entropy(self.logits, other.logits.detach().softmax(-1))


@dataclass(frozen=True)
class BatchFraction:
    """How much of a batch a process has whose loss is one of several that are added up.

    Args:
        labels: of what is labelled, from 0 to 1.
        states: of all tokens that are no padding.
    """

    labels: float = 1.0
    states: float = 1.0


WHOLE = BatchFraction()


@dataclass(frozen=True)
class Distillation:
    """How much of the loss is the teacher's.

    The loss is ``(1 - weight) · CE + weight · T² · KL(teacher ‖ student) + hidden · D``: cross-entropy of the answers,
    the forward Kullback-Leibler divergence at temperature T (Hinton et al., 2015, arXiv 1503.02531, section 2), and the
    squared distance D of the last hidden states over all tokens, relative to the teacher's.

    Args:
        weight: of the teacher's distribution, from 0 to 1; with 0, and 0 of `hidden`, the teacher is not asked.
        temperature: T, above 0.
        hidden: weight of the hidden states, 0 or more.

    Raises:
        ValueError: one of them is out of its range.
    """

    weight: float = 0.5
    temperature: float = 1.0
    hidden: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"the teacher's weight is {self.weight}; give a fraction from 0 to 1.")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0.")
        if not self.hidden >= 0:
            raise ValueError(f"the weight of hidden states is {self.hidden}; it must be 0 or more.")

    @property
    def asks(self) -> bool:
        """Whether anything of the teacher is learned."""
        return self.weight > 0 or self.hidden > 0

    def loss(self, student: Predictions, teacher: Predictions, part: BatchFraction = WHOLE) -> Tensor:
        """The loss of `student`, a number, or its summand of a batch's; gradients reach it alone."""
        loss = self.weight * self._divergence(student, teacher)
        if self.weight < 1:
            loss = loss + (1 - self.weight) * student.loss
        loss = part.labels * loss
        if self.hidden:
            squared = teacher.states.float().square().sum(-1)
            distance = (student.states - teacher.states).float().square().sum(-1) / squared
            loss = loss + part.states * self.hidden * distance.mean()
        return loss

    def _divergence(self, student: Predictions, teacher: Predictions) -> Tensor:
        if student.numbers:
            return student.imitating(teacher)
        t = self.temperature
        divergence = F.kl_div(
            F.log_softmax(student.logits.float() / t, -1),
            F.log_softmax(teacher.logits.float() / t, -1),
            reduction="batchmean",
            log_target=True,
        )
        return t * t * divergence


def predictions(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Predictions:
    """What `model` says of `batch`; the output head runs at the labelled positions alone.

    Rows that the model would read otherwise alone have a pass of their own (see `evaluators.text.positions`).
    """
    if batch["labels"].dim() == 1:
        return _classified(model, batch)
    parts = [_predictions(model, part) for part in by_regime(model, batch)]
    return parts[0] if len(parts) == 1 else _together(parts)


def _together(parts: Sequence[Predictions]) -> Predictions:
    return Predictions(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Predictions)))


def _predictions(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Predictions:
    hidden = _hidden(model, batch)
    states, labels = _where_labelled(hidden, batch)
    return Predictions(logits_of(model, states), labels, hidden[batch["attention_mask"].bool()])


def answer_states(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """All of `predictions` of a language model but its head: of each pass the states from which labelled tokens are
    predicted, shape (labelled tokens, hidden), and these tokens.
    """
    return [_where_labelled(_hidden(model, part), part) for part in by_regime(model, batch)]


def at_answers(model: PreTrainedModel, states: Sequence[tuple[Tensor, Tensor]]) -> Predictions:
    """What the head of `model` makes of `answer_states`: as `predictions`, without the other tokens' states."""
    parts = [Predictions(logits_of(model, of_pass), labels, of_pass[:0]) for of_pass, labels in states]
    return parts[0] if len(parts) == 1 else _together(parts)


def _hidden(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Last hidden states, shape (rows, tokens, hidden)."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    hidden: Tensor = model.base_model(**inputs, use_cache=False).last_hidden_state
    return hidden


def _where_labelled(hidden: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    labels = batch["labels"][:, 1:]
    scored = labels != IGNORED
    return hidden[:, :-1][scored], labels[scored]


def _classified(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Predictions:
    read = {name: tensor for name, tensor in batch.items() if name != "labels"}
    said = model(**read, output_hidden_states=True)
    return Predictions(said.logits, batch["labels"], said.hidden_states[-1][batch["attention_mask"].bool()])


def answer_loss(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the labelled tokens."""
    return predictions(model, batch).loss


def learned(
    student: Predictions,
    teacher: Predictions | None,
    distillation: Distillation,
    part: BatchFraction = WHOLE,
) -> tuple[Tensor, float]:
    """The loss that trains `student`, and its own on the answers, for the report: in nats a token or text.

    Of a part of a batch, both are summands: added up over all parts, they are the whole batch's.
    """
    answers = part.labels * student.loss
    loss = answers if teacher is None else distillation.loss(student, teacher, part)
    return loss, float(answers.detach())
