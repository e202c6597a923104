"""Questions as packed rows of tokens: a prompt once, then each of its options. Tokenizes; never runs a model.

A question is a tree: every option continues the prompt and sees nothing of the other options. A row holds as many
questions as fit, which see nothing of each other, so that hardly any padding is computed. What the attention mask and
the positions express is exactly the rows that a plain evaluation would score one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from evaluators.questions import Question

_PADDING = -1  # segment of padding
ROW_TOKENS = 128  # of a row that holds several questions: longer rows leave less over, but attend to more


@dataclass(frozen=True)
class TokenizedQuestion:
    """Token ids of a prompt and of what each option adds to it."""

    prompt: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]

    @property
    def row_tokens(self) -> int:
        """Tokens that the packed question takes; an option's last one is scored but never read."""
        return len(self.prompt) + sum(len(option) - 1 for option in self.options)

    @property
    def positions(self) -> int:
        """How many positions the longest branch takes."""
        return len(self.prompt) + max(len(option) for option in self.options) - 1


@dataclass(frozen=True)
class PackedBatch:
    """Rows of questions, and where their options' tokens are predicted.

    Args:
        input_ids: shape (rows, tokens).
        position_ids: shape (rows, tokens); every question starts at 0, every option where its prompt ends.
        segments: shape (rows, tokens); a number for every prompt and every option of a row, -1 for padding.
        roots: shape (rows, tokens); the segment of each token's prompt.
        scored: indices into rows times tokens of the positions that predict an option's token, shape (scored,).
        sources: indices into `scored`, one for every token of every option, shape (targets,).
        targets: the token ids predicted there, shape (targets,).
        options: index of each target's option among all options of all questions, shape (targets,).
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: Tensor
    roots: Tensor
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


@lru_cache(maxsize=64)
def batches(
    questions: tuple[TokenizedQuestion, ...], token_budget: int, row_tokens: int = ROW_TOKENS
) -> tuple[PackedBatch, ...]:
    """All questions in batches of rows, at most `token_budget` tokens each with their padding; a longer row is a batch
    of its own.

    Args:
        row_tokens: questions share a row up to so many tokens; 0 gives each a row of its own.
    """
    sizes = [question.row_tokens for question in questions]
    first_options = list(accumulate((len(q.options) for q in questions), initial=0))
    groups: list[list[list[int]]] = []
    width = 0  # of the group's rows
    for row in _rows(sizes, row_tokens):
        filled = sum(sizes[i] for i in row)
        if groups and (len(groups[-1]) + 1) * max(width, filled) <= token_budget:
            groups[-1].append(row)
            width = max(width, filled)
        else:
            groups.append([row])
            width = filled
    return tuple(_packed([[(questions[i], first_options[i]) for i in row] for row in group]) for group in groups)


def _rows(sizes: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Which questions share a row: the longest first, each into the first row that has room (first fit decreasing)."""
    rows: list[list[int]] = []
    room: list[int] = []
    width = max(row_tokens, *sizes) if row_tokens else 0
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        row = next((r for r, left in enumerate(room) if sizes[i] <= left), None)
        if row is None:
            rows.append([i])
            room.append(width - sizes[i])
        else:
            rows[row].append(i)
            room[row] -= sizes[i]
    return rows


def tree_mask(batch: PackedBatch, dtype: torch.dtype) -> Tensor:
    """The additive attention mask of rows that hold trees, shape (rows, 1, tokens, tokens).

    A token sees itself and, of the tokens before it, its prompt's and its own option's.
    """
    tokens = batch.segments.shape[1]
    before = torch.ones(tokens, tokens, dtype=torch.bool, device=batch.segments.device).tril()
    keys = batch.segments[:, None, :]  # (rows, 1, tokens)
    related = (keys == batch.roots[:, :, None]) | (keys == batch.segments[:, :, None])
    visible = before & related  # (rows, tokens, tokens)
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


def _packed(rows: Sequence[Sequence[tuple[TokenizedQuestion, int]]]) -> PackedBatch:
    """One batch of rows of questions, each with the index of its first option."""
    width = max(sum(question.row_tokens for question, _ in row) for row in rows)
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    position_ids = torch.zeros(len(rows), width, dtype=torch.long)
    segments = torch.full((len(rows), width), _PADDING)
    roots = torch.full((len(rows), width), _PADDING)
    targets = _Targets([], [], [], [])
    for r, row in enumerate(rows):
        ids: list[int] = []
        positions: list[int] = []
        segment: list[int] = []
        root: list[int] = []
        for question, first_option in row:
            own = segment[-1] + 1 if segment else 0
            start = r * width + len(ids)
            targets.add(question, first_option, start)
            length = len(question.prompt)
            branches = [question.prompt, *(option[:-1] for option in question.options)]
            for i, tokens in enumerate(branches):
                first = length if i else 0
                ids.extend(tokens)
                positions.extend(range(first, first + len(tokens)))
                segment.extend([own + i] * len(tokens))
            root.extend([own] * (len(ids) - len(root)))
        for tensor, values in ((input_ids, ids), (position_ids, positions), (segments, segment), (roots, root)):
            tensor[r, : len(values)] = torch.tensor(values)
    return PackedBatch(input_ids, position_ids, segments, roots, *targets.tensors())


@dataclass(frozen=True)
class _Targets:
    """The lists behind a batch's last four tensors; see `PackedBatch`."""

    scored: list[int]
    sources: list[int]
    targets: list[int]
    owners: list[int]

    def add(self, question: TokenizedQuestion, first_option: int, start: int) -> None:
        """Add a question whose prompt begins at position `start` of the flattened rows."""
        position = start + len(question.prompt) - 1
        prompt_end = len(self.scored)  # the prompt's last token predicts the first token of every option
        self.scored.append(position)
        for i, option in enumerate(question.options):
            self.sources.append(prompt_end)
            for _ in option[:-1]:
                position += 1
                self.sources.append(len(self.scored))
                self.scored.append(position)
            self.targets.extend(option)
            self.owners.extend([first_option + i] * len(option))

    def tensors(self) -> Iterator[Tensor]:
        """In the order of `PackedBatch`."""
        return (torch.tensor(values) for values in (self.scored, self.sources, self.targets, self.owners))
