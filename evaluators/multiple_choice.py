"""Accuracy on multiple-choice questions: the option that the model finds likeliest is its answer. Generates nothing."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from evaluators.checks import require_at_least, require_one_of
from evaluators.head import logits_of
from evaluators.packing import PackedBatch, TokenizedQuestion, batches, one_option_a_row, tokenized, tree_mask
from evaluators.protocol import Direction, Measurement, Subnetwork
from evaluators.questions import Question

TOKEN_BUDGET = 2048
_LOGITS_AT_ONCE = 2**24  # elements of the largest block of logits: 64 MB in fp32
_MASKED_ATTENTION = ("sdpa", "eager")
_COUNTS_POSITIONS_ITSELF = ("bloom", "mpt")  # ALiBi: a token's place in its row is its position


class MultipleChoiceAccuracy:
    """Fraction of questions whose right option has the largest log-likelihood, as the lm-evaluation-harness scores.

    Args:
        questions: two or more.
        normalize: False compares summed log-likelihoods (the harness's ``acc``); ``"characters"`` divides each by the
            length of its choice (``acc_norm``).
        token_budget: tokens of one batch, padding included; more memory for larger ones. Does not change scores.
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
        name: str = "accuracy",
    ) -> None:
        self.questions = tuple(questions)
        self.normalize, self.token_budget, self.name = normalize, token_budget, name
        if len(self.questions) < 2:
            raise ValueError(
                f"questions holds {len(self.questions)}; give two or more, so that errors can be estimated."
            )
        require_one_of((False, "characters"), normalize=normalize)
        require_at_least(1, token_budget=token_budget)

    def __repr__(self) -> str:
        return f"MultipleChoiceAccuracy({len(self.questions)} questions, normalize={self.normalize!r})"

    def settings(self) -> Mapping[str, Any]:
        """The questions, as a hash and a count, and the normalization."""
        data = [[q.question, q.choices, q.answer] for q in self.questions]
        digest = hashlib.sha256(json.dumps(data, ensure_ascii=False).encode()).hexdigest()[:16]
        return {"questions": digest, "count": len(self.questions), "normalize": self.normalize}

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Accuracy of `subnet` as it runs in the super-network."""
        return self.measure(subnet.model, subnet.tokenizer)

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Measurement:
        """Accuracy of any Hugging Face causal language model.

        Raises:
            ValueError: as `log_likelihoods`.
        """
        # A tie goes to the first option, as in the harness; torch's argmax does not promise which one it takes.
        answers = self.scores(model, tokenizer).numpy().argmax(axis=1)  # (questions,)
        correct = torch.tensor([int(q.answer == a) for q, a in zip(self.questions, answers, strict=True)]).double()
        n = len(correct)
        return Measurement(value=correct.mean().item(), stderr=correct.std(correction=1).item() / math.sqrt(n), n=n)

    def scores(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
        """What the options are compared by, shape (questions, choices), in fp32 on the CPU.

        Questions with fewer choices than the largest end in ``-inf``.

        Raises:
            ValueError: as `log_likelihoods`.
        """
        scores = log_likelihoods(model, tokenizer, self.questions, self.token_budget)
        if self.normalize == "characters":
            lengths = torch.ones_like(scores)
            for i, question in enumerate(self.questions):
                lengths[i, : len(question.choices)] = torch.tensor([len(choice) for choice in question.choices])
            scores = scores / lengths
        return scores


@torch.inference_mode()
def log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    token_budget: int = TOKEN_BUDGET,
) -> Tensor:
    """Summed log-likelihood of every option given its prompt, shape (questions, choices), in fp32 on the CPU.

    A prompt is computed once for all its options, and the output head where an option's token is predicted.
    Questions with fewer choices than the largest end in ``-inf``.

    Raises:
        ValueError: the model is in training mode or its attention takes no mask of ours, or a question is longer than
            the model can read or tokenizes to nothing (the question is named).
    """
    tokens = tokenized(tuple(questions), tokenizer)
    _require_readable(model, questions, tokens)
    counts = [len(question.choices) for question in questions]
    if model.config.model_type in _COUNTS_POSITIONS_ITSELF:
        tokens = one_option_a_row(tokens)
    totals = torch.zeros(sum(counts), device=model.device)  # (options of all questions,)
    for batch in batches(tokens, token_budget):
        batch = batch.to(model.device)
        totals.index_add_(0, batch.options, _token_log_likelihoods(model, batch))
    rows = list(torch.split(totals.cpu(), counts))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-math.inf)


def _token_log_likelihoods(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """Log-likelihood of every target of `batch`, shape (targets,)."""
    trunk: nn.Module = model.get_decoder()
    if model.config.model_type in _COUNTS_POSITIONS_ITSELF:
        layout = {"attention_mask": (batch.segments >= 0).long()}
    else:
        layout = {"attention_mask": tree_mask(batch.segments, model.dtype), "position_ids": batch.position_ids}
    hidden = trunk(input_ids=batch.input_ids, use_cache=False, **layout).last_hidden_state  # (rows, tokens, hidden)
    hidden = hidden.flatten(0, 1)[batch.scored]  # (scored, hidden)
    rows_at_once = max(1, _LOGITS_AT_ONCE // model.config.get_text_config().vocab_size)
    result = torch.empty(len(batch.targets), device=hidden.device)
    for start in range(0, len(hidden), rows_at_once):
        logits = logits_of(model, hidden[start : start + rows_at_once])  # (block, vocabulary)
        here = (batch.sources >= start) & (batch.sources < start + rows_at_once)
        sources = batch.sources[here] - start
        result[here] = logits[sources, batch.targets[here]] - logits.logsumexp(dim=-1)[sources]
    return result


def _require_readable(
    model: PreTrainedModel, questions: Sequence[Question], tokens: Sequence[TokenizedQuestion]
) -> None:
    if model.training:
        raise ValueError("the model is in training mode, where dropout changes its scores; call model.eval() first.")
    if model.get_output_embeddings() is None:
        raise ValueError(
            f"{type(model).__name__} has no output head over the vocabulary, so it gives no log-likelihoods; "
            "score it with a function of your own, given to nas_engine.search as an evaluator."
        )
    if model.config._attn_implementation not in _MASKED_ATTENTION:
        raise ValueError(
            f"the model's attention is {model.config._attn_implementation!r}, which takes no tree-shaped mask; "
            f'load it with attn_implementation="sdpa".'
        )
    most, why = _most_positions(model.config.get_text_config())
    for i, (question, tokenized_question) in enumerate(zip(questions, tokens, strict=True), start=1):
        if tokenized_question.positions > most:
            raise ValueError(
                f"question {i} ({question.question[:60]!r}) takes {tokenized_question.positions} tokens with its "
                f"longest choice, but {why} is {most}; shorten it, or leave it out."
            )


def _most_positions(config: PreTrainedConfig) -> tuple[int, str]:
    # A mask of ours replaces the sliding window's too; within one window both say the same.
    limits = {
        "the model's max_position_embeddings": getattr(config, "max_position_embeddings", None),
        "the model's sliding_window": getattr(config, "sliding_window", None),
    }
    return min(((limit, why) for why, limit in limits.items() if limit), default=(2**63, "no limit"))
