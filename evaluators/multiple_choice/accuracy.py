"""Accuracy on multiple-choice questions: the option that the model finds likeliest is its answer. Generates nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.checks import require_at_least, require_one_of
from evaluators.multiple_choice.answering import Answering
from evaluators.multiple_choice.likelihoods import (
    TOKEN_BUDGET,
    Around,
    log_likelihoods,
    nothing_around,
    require_scorable_questions,
)
from evaluators.multiple_choice.packing import tokenized_questions
from evaluators.multiple_choice.prefix_reuse import PrefixReuse, free_memory_share
from evaluators.multiple_choice.questions import Question
from evaluators.multiple_choice.racing import Racing, dropped, packed_outcomes, verdict
from evaluators.multiple_choice.screening import Screening
from evaluators.protocol import Direction, EvaluatorDefaults, Measurement, Session, Subnetwork
from evaluators.text.halving import Halving
from search_spaces.fingerprint import fingerprint_of


class MultipleChoiceAccuracy(EvaluatorDefaults):
    """Fraction of questions whose right option has the largest log-likelihood, as the lm-evaluation-harness scores.

    In a search, sub-networks share the first layers on which they agree, with the same scores as alone.

    Args:
        questions: two or more.
        normalize: False compares summed log-likelihoods (the harness's ``acc``); ``"characters"`` divides each by the
            length of its choice (``acc_norm``).
        token_budget: tokens of one batch, padding included; more memory for larger ones. Halved where memory runs out.
            Does not change scores.
        racing: drop a sub-network early that cannot enter the front any more; None asks all questions of each.
        screening: answer in half precision first, and only what that leaves open in full; for processors that are
            faster at it. Answers stay those of full precision (see `evaluators.multiple_choice.screening`); None asks
            in full alone.
        memory_bytes: for the outputs of shared layers; 0 shares nothing, None takes a quarter of what is free when a
            search begins. Does not change scores.
        name: column name of the score.

    Raises:
        ValueError: fewer than two questions, for which no standard error exists, or another argument out of range.
    """

    direction: Direction = "maximize"
    unit = ""

    def __init__(
        self,
        questions: Iterable[Question],
        normalize: Literal[False, "characters"] = False,
        token_budget: int = TOKEN_BUDGET,
        racing: Racing | None = None,
        screening: Screening | None = None,
        memory_bytes: int | None = None,
        name: str = "accuracy",
    ) -> None:
        self.questions = tuple(questions)
        self.normalize, self.name = normalize, name
        self.racing, self.screening, self.memory_bytes = racing, screening, memory_bytes
        self.budget = Halving(token_budget)
        if len(self.questions) < 2:
            raise ValueError(
                f"questions holds {len(self.questions)}; give two or more, so that errors can be estimated."
            )
        require_one_of((False, "characters"), normalize=normalize)
        if memory_bytes is not None:
            require_at_least(0, memory_bytes=memory_bytes)

    def __repr__(self) -> str:
        return f"MultipleChoiceAccuracy({len(self.questions)} questions, normalize={self.normalize!r})"

    @property
    def races(self) -> bool:
        """Whether sub-networks are dropped early."""
        return self.racing is not None

    def settings(self) -> Mapping[str, Any]:
        """The questions, as a hash and a count, the normalization, the racing and the screening."""
        data = [[q.question, q.choices, q.answer] for q in self.questions]
        digest = fingerprint_of(data)
        settings = {"questions": digest, "count": len(self.questions), "normalize": self.normalize}
        ways = {"racing": self.racing, "screening": self.screening}
        return settings | {name: asdict(way) for name, way in ways.items() if way is not None}

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Accuracy of `subnet` as it runs in the super-network."""
        return self.measure(subnet.model, subnet.tokenizer)

    def session(self, subnets: Sequence[Subnetwork], before: Session | None = None) -> ChoiceSession:
        """Begin to measure `subnets`, in the order of `evaluators.depth_first`."""
        return ChoiceSession(self, subnets, before.reuse if isinstance(before, ChoiceSession) else None)

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Measurement:
        """Accuracy of any Hugging Face causal language model, on all questions.

        Raises:
            ValueError: as `log_likelihoods`.
        """
        answering = self.answering(model, tokenizer)
        for part in self.parts:
            answering.ask(part)
        answering.settle()
        return self.accuracy(answering)

    def require_readable(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that `model` can read every question, before anything long begins.

        Raises:
            ValueError: as `log_likelihoods`.
        """
        require_scorable_questions(model, self.questions, tokenized_questions(self.questions, tokenizer))

    @property
    def parts(self) -> tuple[tuple[int, ...], ...]:
        """The indices of the questions that are asked at once."""
        count = len(self.questions)
        return (tuple(range(count)),) if self.racing is None else self.racing.parts(count)

    def answering(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Answering:
        """A model that has answered nothing yet."""

        def scores(positions: Sequence[int], around: Around) -> Tensor:
            return self._scores(model, tokenizer, tuple(self.questions[i] for i in positions), around)

        return Answering(self.questions, scores, self.screening, model.device)

    def accuracy(self, answering: Answering) -> Measurement:
        """The measurement of a model that has answered all questions."""
        outcomes = np.empty(len(self.questions), dtype=bool)
        outcomes[answering.asked] = answering.right
        n = len(outcomes)
        stderr = float(outcomes.std(ddof=1)) / math.sqrt(n)
        return Measurement(float(outcomes.mean()), stderr, n, packed_outcomes(outcomes) if self.races else "")

    def scores(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
        """What the options are compared by, shape (questions, choices), in fp32 on the CPU.

        Questions with fewer choices than the largest end in ``-inf``.

        Raises:
            ValueError: as `log_likelihoods`.
        """
        return self._scores(model, tokenizer, self.questions)

    def _scores(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        questions: tuple[Question, ...],
        around: Around = nothing_around,
    ) -> Tensor:
        scores = self.budget.run(
            lambda token_budget: log_likelihoods(model, tokenizer, questions, token_budget, around)
        )
        if self.normalize == "characters":
            lengths = [torch.tensor([len(choice) for choice in question.choices]) for question in questions]
            scores = scores / torch.nn.utils.rnn.pad_sequence(lengths, batch_first=True, padding_value=1)
        return scores


class ChoiceSession:
    """Sub-networks that answer the same questions in turns; made by `MultipleChoiceAccuracy.session`.

    Attributes:
        reuse: the layers that they share, and how many were run and how many were not.

    Args:
        accuracy: what is measured.
        subnets: one or more, in the order of `evaluators.depth_first`.
        reuse: of a session before this one, whose sub-networks' layers these may share; None begins anew.
    """

    def __init__(
        self, accuracy: MultipleChoiceAccuracy, subnets: Sequence[Subnetwork], reuse: PrefixReuse | None = None
    ) -> None:
        self._accuracy, self._subnets = accuracy, subnets
        if reuse is None:
            given, device = accuracy.memory_bytes, subnets[0].model.device
            room = free_memory_share(device) if given is None else given
            # Layers that read the keys of earlier ones need these to have run.
            shared = getattr(subnets[0].model.config.get_text_config(), "num_kv_shared_layers", 0)
            reuse = PrefixReuse(subnets[0].layers, 0 if shared else room)
        reuse.begin([subnet.layer_signatures for subnet in subnets])
        self.reuse = reuse
        self._token_budget = accuracy.budget.budget

    def measure(self, position: int, rival: Measurement | None = None) -> Measurement:
        """The accuracy of a sub-network, on all questions unless it is dropped on the way.

        Args:
            position: in the batch; ascending from call to call.
            rival: an accuracy on all questions that it has to reach; None where it has none.
        """
        accuracy, subnet = self._accuracy, self._subnets[position]
        parts = accuracy.parts
        answering = accuracy.answering(subnet.model, subnet.tokenizer)
        for number, part in enumerate(parts, start=1):
            answering.ask(part, self._turns(position, number))
            if number < len(parts) and rival is not None and self._loses(answering, rival):
                answering.settle()  # a verdict that rests on provisional answers is passed again on settled ones
                if self._loses(answering, rival):
                    return dropped(answering.right, rival, np.array(answering.asked))
        answering.settle()
        return accuracy.accuracy(answering)

    def _loses(self, answering: Answering, rival: Measurement) -> bool:
        """Whether a race against `rival` is lost for sure."""
        racing, looks = self._accuracy.racing, len(self._accuracy.parts) - 1
        if racing is None or not rival.outcomes:
            return False
        return verdict(answering.right, rival, np.array(answering.asked), looks, racing.confidence)

    def _turns(self, position: int, part: int) -> Around:
        def around(batch: int) -> AbstractContextManager[None]:
            if self._token_budget != self._accuracy.budget.budget:
                # Memory ran out: the batches are other ones now, and what was kept takes room.
                self._token_budget = self._accuracy.budget.budget
                self.reuse.clear()
            return self.reuse.turn(position, (part, batch))

        return around
