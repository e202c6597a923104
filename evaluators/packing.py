"""Questions as packed rows of tokens: a prompt once, then each of its options. Tokenizes; never runs a model.

A row is a tree: every option continues the prompt and sees nothing of the other options. What the tree attention mask
and the positions express is exactly the rows that a plain evaluation would score one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from evaluators.questions import Question

_PADDING = -1  # segment of padding; the prompt is 0, the options count from 1


@dataclass(frozen=True)
class TokenizedQuestion:
    """Token ids of a prompt and of what each option adds to it."""

    prompt: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]

    @property
    def row_tokens(self) -> int:
        """Length of the packed row; an option's last token is scored but never read."""
        return len(self.prompt) + sum(len(option) - 1 for option in self.options)

    @property
    def positions(self) -> int:
        """How many positions the longest branch takes."""
        return len(self.prompt) + max(len(option) for option in self.options) - 1


@dataclass(frozen=True)
class PackedBatch:
    """Several questions, a padded row each, and where their options' tokens are predicted.

    Args:
        input_ids: shape (rows, tokens).
        position_ids: shape (rows, tokens); every option starts over where its prompt ends.
        segments: shape (rows, tokens); 0 for the prompt, 1, 2, … for its options, -1 for padding.
        scored: indices into rows times tokens of the positions that predict an option's token, shape (scored,).
        sources: indices into `scored`, one for every token of every option, shape (targets,).
        targets: the token ids predicted there, shape (targets,).
        options: index of each target's option among all options of all questions, shape (targets,).
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: Tensor
    scored: Tensor
    sources: Tensor
    targets: Tensor
    options: Tensor

    def to(self, device: torch.device) -> PackedBatch:
        """The same on `device`."""
        return PackedBatch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


@lru_cache(maxsize=8)
def tokenized(questions: tuple[Question, ...], tokenizer: PreTrainedTokenizerBase) -> tuple[TokenizedQuestion, ...]:
    """Token ids of every question, split as the lm-evaluation-harness does: an option's tokens are those of prompt and
    option together from the prompt's own count on. Computed once for a tokenizer.

    Raises:
        ValueError: an option adds no token to its prompt (the question is named).
    """
    prompts: list[list[int]] = tokenizer([q.prompt for q in questions])["input_ids"]
    texts = [q.prompt + continuation for q in questions for continuation in q.continuations]
    wholes = iter(tokenizer(texts)["input_ids"])
    result = []
    for i, (question, prompt) in enumerate(zip(questions, prompts, strict=True), start=1):
        options = tuple(tuple(next(wholes)[len(prompt) :]) for _ in question.choices)
        if not all(options):
            empty = question.choices[options.index(())]
            raise ValueError(
                f"question {i} ({question.question[:60]!r}): the choice {empty!r} adds no token to its prompt; "
                "reword it, or use the tokenizer that belongs to the model."
            )
        result.append(TokenizedQuestion(tuple(prompt), options))
    return tuple(result)


def one_option_a_row(questions: tuple[TokenizedQuestion, ...]) -> tuple[TokenizedQuestion, ...]:
    """The same options as questions of one each, for models that cannot read a tree: every prompt is read anew."""
    return tuple(TokenizedQuestion(q.prompt, (option,)) for q in questions for option in q.options)


@lru_cache(maxsize=8)
def batches(questions: tuple[TokenizedQuestion, ...], token_budget: int) -> tuple[PackedBatch, ...]:
    """All questions in batches of rows of similar length, longest first, at most `token_budget` tokens each with their
    padding; a longer row is a batch of its own.
    """
    first_options = list(accumulate((len(q.options) for q in questions), initial=0))
    order = sorted(range(len(questions)), key=lambda i: -questions[i].row_tokens)
    groups: list[list[int]] = []
    for i in order:
        if groups and (len(groups[-1]) + 1) * questions[groups[-1][0]].row_tokens <= token_budget:
            groups[-1].append(i)
        else:
            groups.append([i])
    return tuple(_packed([questions[i] for i in group], [first_options[i] for i in group]) for group in groups)


def tree_mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """The additive attention mask of rows that are trees, shape (rows, 1, tokens, tokens).

    A token sees itself and, of the tokens before it, the prompt's and its own option's.
    """
    tokens = segments.shape[1]
    before = torch.ones(tokens, tokens, dtype=torch.bool, device=segments.device).tril()
    keys = segments[:, None, :]  # (rows, 1, tokens)
    visible = before & ((keys == 0) | (keys == segments[:, :, None]))  # (rows, tokens, tokens)
    mask = torch.zeros(visible.shape, dtype=dtype, device=segments.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


def _packed(questions: Sequence[TokenizedQuestion], first_options: Sequence[int]) -> PackedBatch:
    width = max(question.row_tokens for question in questions)
    input_ids = torch.zeros(len(questions), width, dtype=torch.long)
    position_ids = torch.zeros(len(questions), width, dtype=torch.long)
    segments = torch.full((len(questions), width), _PADDING)
    scored: list[int] = []
    sources: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for row, (question, first_option) in enumerate(zip(questions, first_options, strict=True)):
        ids, positions, segment = list(question.prompt), list(range(len(question.prompt))), [0] * len(question.prompt)
        prompt_end = len(scored)  # the prompt's last token predicts the first token of every option
        scored.append(row * width + len(question.prompt) - 1)
        for i, option in enumerate(question.options):
            sources.append(prompt_end)
            for depth in range(len(option) - 1):
                sources.append(len(scored))
                scored.append(row * width + len(ids))
                ids.append(option[depth])
                positions.append(len(question.prompt) + depth)
                segment.append(i + 1)
            targets.extend(option)
            owners.extend([first_option + i] * len(option))
        input_ids[row, : len(ids)] = torch.tensor(ids)
        position_ids[row, : len(ids)] = torch.tensor(positions)
        segments[row, : len(ids)] = torch.tensor(segment)
    indices = (torch.tensor(values) for values in (scored, sources, targets, owners))
    return PackedBatch(input_ids, position_ids, segments, *indices)
