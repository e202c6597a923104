"""Log-likelihoods of the options of multiple-choice questions under a model. Decides nothing about right or wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import count

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from evaluators.multiple_choice.packing import (
    ROW_TOKENS,
    PackedBatch,
    TokenizedQuestion,
    batches,
    one_option_a_row,
    questions_by_regime,
    tokenized_questions,
    tree_mask,
)
from evaluators.multiple_choice.questions import Question
from evaluators.text.head import logits_of
from evaluators.text.positions import switching_lengths

TOKEN_BUDGET = 2048
_LOGITS_AT_ONCE = 2**24  # elements of the largest block of logits: 64 MB in fp32
_MASKED_ATTENTION = ("sdpa", "eager")
_COUNTS_POSITIONS_ITSELF = ("bloom", "mpt")  # ALiBi: a token's place in its row is its position
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}  # types of layers that take a mask
Around = Callable[[int], AbstractContextManager[None]]


def nothing_around(batch: int) -> AbstractContextManager[None]:
    """Leaves the forward pass on each batch as it is."""
    return nullcontext()


@torch.inference_mode()
def log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    token_budget: int = TOKEN_BUDGET,
    around: Around = nothing_around,
) -> Tensor:
    """Summed log-likelihood of every option given its prompt, shape (questions, choices), in fp32 on the CPU.

    A prompt is computed once for all its options, and the output head where an option's token is predicted.
    Questions with fewer choices than the largest end in ``-inf``.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: its tokenizer.
        questions: whose options are scored.
        token_budget: tokens of one batch, padding included.
        around: entered around the forward pass on each batch, given the batch's number.

    Raises:
        ValueError: the model is in training mode, its attention takes no mask of ours or its rotary embedding is of an
            unknown kind, or a question is longer than the model can read or tokenizes to nothing (it is named).
    """
    tokens = tokenized_questions(tuple(questions), tokenizer)
    require_scorable_questions(model, questions, tokens)
    counts = [len(question.choices) for question in questions]
    row_tokens = ROW_TOKENS
    if _reads_rows(model):
        tokens, row_tokens = one_option_a_row(tokens), 0
    totals = torch.zeros(sum(counts))  # (options of all questions,)
    numbers = count()
    for together, options in questions_by_regime(tokens, switching_lengths(model)):
        sums = torch.zeros(len(options), device=model.device)
        for batch in batches(together, token_budget, row_tokens):
            batch = batch.to(model.device)
            with around(next(numbers)):
                hidden = _hidden_states(model, batch)
            sums.index_add_(0, batch.options, _token_log_likelihoods(model, batch, hidden))
        totals[list(options)] = sums.cpu()
    rows = list(torch.split(totals, counts))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-math.inf)


def _reads_rows(model: PreTrainedModel) -> bool:
    """Whether `model` reads a row from its beginning to its end, whatever a mask of ours or positions say."""
    config = model.config.get_text_config()
    recurrent = set(getattr(config, "layer_types", None) or ()) - _ATTENTION
    return bool(recurrent) or model.config.model_type in _COUNTS_POSITIONS_ITSELF


def _hidden_states(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """The trunk's last hidden states, shape (rows, tokens, hidden)."""
    trunk: nn.Module = model.get_decoder()
    if _reads_rows(model):
        layout = {"attention_mask": batch.no_padding.long()}
    else:
        layout = {"attention_mask": tree_mask(batch, model.dtype), "position_ids": batch.position_ids}
    states: Tensor = trunk(input_ids=batch.input_ids, use_cache=False, **layout).last_hidden_state
    return states


def _token_log_likelihoods(model: PreTrainedModel, batch: PackedBatch, hidden: Tensor) -> Tensor:
    """Log-likelihood of every target of `batch`, shape (targets,)."""
    hidden = hidden.flatten(0, 1)[batch.scored]  # (scored, hidden)
    rows_at_once = max(1, _LOGITS_AT_ONCE // model.config.get_text_config().vocab_size)
    result = torch.empty(len(batch.targets), device=hidden.device)
    for start in range(0, len(hidden), rows_at_once):
        logits = logits_of(model, hidden[start : start + rows_at_once])  # (block, vocabulary)
        here = (batch.sources >= start) & (batch.sources < start + rows_at_once)
        sources = batch.sources[here] - start
        result[here] = logits[sources, batch.targets[here]] - logits.logsumexp(dim=-1)[sources]
    return result


def require_scorable_questions(
    model: PreTrainedModel, questions: Sequence[Question], tokens: Sequence[TokenizedQuestion]
) -> None:
    """Check that `model` can score `questions`.

    Raises:
        ValueError: as `log_likelihoods`.
    """
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
    switching_lengths(model)
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
