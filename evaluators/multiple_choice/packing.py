"""Questions as packed rows of tokens, in which what several begin with stands once. Tokenizes; never runs a model.

A row is a tree of tokens: options continue their prompt and see nothing of each other, and share the tokens they begin
with; so do the questions of a row, of which there are as many as fit, so that hardly any padding is computed. What the
attention mask and the positions express is exactly the rows that a plain evaluation would score one by one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, takewhile

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from evaluators.multiple_choice.questions import Question
from evaluators.multiple_choice.token_tree import TokenTree
from evaluators.text.encoding import encoding_state, shared_start, token_ids
from evaluators.text.positions import regime

ROW_TOKENS = 128  # of a row that holds several questions: longer rows leave less over, but attend to more


@dataclass(frozen=True)
class TokenizedQuestion:
    """Token ids of a prompt and of what each option adds to it."""

    prompt: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]

    @property
    def row_tokens(self) -> int:
        """Tokens that the packed question takes; an option's last one is scored but never read."""
        tree = TokenTree()
        for option in self.options:
            tree.grow(0, option[:-1])
        return len(self.prompt) + len(tree)

    @property
    def positions(self) -> int:
        """How many positions the longest branch takes."""
        return len(self.prompt) + max(len(option) for option in self.options) - 1


@dataclass(frozen=True)
class PackedBatch:
    """Rows of questions, and where their options' tokens are predicted.

    Args:
        input_ids: shape (rows, tokens), every token before those that continue it.
        position_ids: shape (rows, tokens); every question starts at 0, every option where its prompt ends.
        ends: shape (rows, tokens); where in its row what continues a token ends; a padding token's own place.
        scored: indices into rows times tokens of the positions that predict an option's token, shape (scored,).
        sources: indices into `scored`, one for every token of every option, shape (targets,).
        targets: the token ids predicted there, shape (targets,).
        options: index of each target's option among all options of all questions, shape (targets,).
    """

    input_ids: Tensor
    position_ids: Tensor
    ends: Tensor
    scored: Tensor
    sources: Tensor
    targets: Tensor
    options: Tensor

    def to(self, device: torch.device) -> PackedBatch:
        """The same on `device`."""
        return PackedBatch(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    @property
    def places(self) -> Tensor:
        """The place of each token in its row, shape (tokens,)."""
        return torch.arange(self.ends.shape[1], device=self.ends.device)

    @property
    def no_padding(self) -> Tensor:
        """Whether each token is a question's, shape (rows, tokens)."""
        return self.ends > self.places


def tokenized_questions(
    questions: tuple[Question, ...], tokenizer: PreTrainedTokenizerBase
) -> tuple[TokenizedQuestion, ...]:
    """Token ids of every question, split as the lm-evaluation-harness does: an option's tokens are those of prompt and
    option together from the prompt's own on. Where a token spans the boundary, from the first that differs from the
    prompt's, for all options of the question. Computed once for a tokenizer.

    Raises:
        ValueError: an option adds no token to its prompt (the question is named).
    """
    return _tokenized(questions, tokenizer, encoding_state(tokenizer))


@lru_cache(maxsize=8)
def _tokenized(
    questions: tuple[Question, ...], tokenizer: PreTrainedTokenizerBase, state: Hashable
) -> tuple[TokenizedQuestion, ...]:
    prompts = token_ids(tokenizer, [q.prompt for q in questions])
    texts = [q.prompt + continuation for q in questions for continuation in q.continuations]
    wholes = iter(token_ids(tokenizer, texts))
    result = []
    for i, (question, prompt) in enumerate(zip(questions, prompts, strict=True), start=1):
        of_question = [next(wholes) for _ in question.choices]
        start = min(shared_start(prompt, whole) for whole in of_question)
        options = tuple(whole[start:] for whole in of_question)
        if not all(options):
            empty = question.choices[options.index(())]
            raise ValueError(
                f"question {i} ({question.question[:60]!r}): the choice {empty!r} adds no token to its prompt; "
                "reword it, or use the tokenizer that belongs to the model."
            )
        if not start:
            raise ValueError(
                f"question {i} ({question.question[:60]!r}) shares no token with its prompt alone, so that nothing is "
                "left to read; begin the prompt with more text."
            )
        result.append(TokenizedQuestion(prompt[:start], options))
    return tuple(result)


def one_option_a_row(questions: tuple[TokenizedQuestion, ...]) -> tuple[TokenizedQuestion, ...]:
    """The same options as questions of one each, for models that cannot read a tree: every prompt is read anew."""
    return tuple(TokenizedQuestion(q.prompt, (option,)) for q in questions for option in q.options)


@lru_cache(maxsize=8)
def questions_by_regime(
    questions: tuple[TokenizedQuestion, ...], lengths: tuple[int, ...]
) -> tuple[tuple[tuple[TokenizedQuestion, ...], tuple[int, ...]], ...]:
    """Questions whose options are read in the same way, each time with the indices of those among all options.

    A question is in several where its longest options exceed one of `lengths` (`positions.switching_lengths`) and its
    shortest ones do not.
    """
    found: dict[int, tuple[list[TokenizedQuestion], list[int]]] = {}
    first = 0
    for question in questions:
        options: dict[int, list[int]] = {}
        for i, option in enumerate(question.options):
            options.setdefault(regime(len(question.prompt) + len(option) - 1, lengths), []).append(i)
        for way, chosen in options.items():
            asked, indices = found.setdefault(way, ([], []))
            asked.append(TokenizedQuestion(question.prompt, tuple(question.options[i] for i in chosen)))
            indices.extend(first + i for i in chosen)
        first += len(question.options)
    return tuple((tuple(asked), tuple(indices)) for asked, indices in found.values())


@lru_cache(maxsize=64)
def batches(
    questions: tuple[TokenizedQuestion, ...], token_budget: int, row_tokens: int = ROW_TOKENS
) -> tuple[PackedBatch, ...]:
    """All questions in batches of rows, at most `token_budget` tokens each with their padding; a longer row is a batch
    of its own.

    Args:
        row_tokens: questions share a row up to so many tokens; 0 gives each a row of its own.
    """
    columns = zip(*(question.prompt for question in questions), strict=False)  # the first tokens, the second ones, …
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns)) if row_tokens else 0
    sizes = [question.row_tokens - shared for question in questions]
    first_options = list(accumulate((len(q.options) for q in questions), initial=0))
    groups: list[list[list[int]]] = []
    width = 0  # of the group's rows
    # A beginning that all share, such as worked examples, is worth a longer row.
    for row in _rows(sizes, max(row_tokens, shared)):
        filled = shared + sum(sizes[i] for i in row)
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

    A token sees itself and the tokens that it continues.
    """
    places = batch.places
    before = places[:, None] >= places  # (tokens, tokens)
    visible = before & (places[:, None] < batch.ends[:, None, :])  # (rows, tokens, tokens)
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


def _packed(rows: Sequence[Sequence[tuple[TokenizedQuestion, int]]]) -> PackedBatch:
    """One batch of rows of questions, each with the index of its first option."""
    packed = [_row(row) for row in rows]
    width = max(len(row.tree) for row in packed)
    input_ids, position_ids = torch.zeros(2, len(rows), width, dtype=torch.long)
    ends = torch.arange(width).repeat(len(rows), 1)
    scored: list[int] = []
    sources: list[int] = []
    for r, row in enumerate(packed):
        layout = row.tree.laid_out()
        for tensor, values in zip((input_ids, position_ids, ends), layout[1:], strict=True):
            tensor[r, : len(values)] = torch.tensor(values)
        places = {node: r * width + place for place, node in enumerate(layout.nodes)}
        index = {node: i for i, node in enumerate(dict.fromkeys(row.predicting), start=len(scored))}
        scored.extend(places[node] for node in index)
        sources.extend(index[node] for node in row.predicting)
    targets = [target for row in packed for target in row.targets]
    options = [option for row in packed for option in row.options]
    return PackedBatch(input_ids, position_ids, ends, *map(torch.tensor, (scored, sources, targets, options)))


@dataclass(frozen=True)
class _Row:
    """Questions as a tree, and for every token of every option the node that predicts it."""

    tree: TokenTree
    predicting: list[int]
    targets: list[int]
    options: list[int]


def _row(questions: Sequence[tuple[TokenizedQuestion, int]]) -> _Row:
    row = _Row(TokenTree(), [], [], [])
    for question, first_option in questions:
        prompt_end = row.tree.grow(0, question.prompt)[-1]
        for i, option in enumerate(question.options, start=first_option):
            row.predicting.extend([prompt_end, *row.tree.grow(prompt_end, option[:-1])])
            row.targets.extend(option)
            row.options.extend([i] * len(option))
    return row
