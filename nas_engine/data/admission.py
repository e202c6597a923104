"""Which items a model can use: written as it reads them, and no longer than allowed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from evaluators import Labelled
from evaluators.classification.labelled import Learnable, encoded_pairs
from evaluators.multiple_choice.questions import Question
from evaluators.text.encoding import token_ids
from evaluators.text.examples import Example, ScoredText, TextPair, tokenized
from nas_engine.data.chat import UnwritableConversationError, templated
from nas_engine.data.contents import Conversation, Document, Item
from nas_engine.data.report import EMPTY, TOO_LONG, UNWRITABLE

_ROOM = 8  # tokens that a piece of a text leaves free: its own edges may be tokenized otherwise


@dataclass(frozen=True)
class Admitted:
    """An example that can be used.

    Args:
        row: of the item that it is of.
        example: as models read it.
        tokens: of it.
        scored: of those, the ones on which the loss is taken; 1 where a label is learned.
    """

    row: int
    example: Learnable
    tokens: int
    scored: int


@dataclass
class Verdict:
    """What becomes of an item: examples, mostly one, and how often something was left out, by reason."""

    admitted: list[Admitted] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    said: str = ""


Admit = Callable[[Sequence[Item]], list[Verdict]]


def everything(items: Sequence[Item]) -> list[Verdict]:
    """An `Admit` without a tokenizer, for questions."""
    found = []
    for item in items:
        assert isinstance(item.content, Question)
        found.append(Verdict([Admitted(item.row, item.content, 0, 0)]))
    return found


@dataclass(frozen=True)
class Admission:
    """An `Admit` by what a tokenizer makes of an item.

    Args:
        tokenizer: of the model.
        max_tokens: of an example, its end-of-text token included; plain texts are parted into pieces of so many, and
            of a question no choice may be longer.
    """

    tokenizer: PreTrainedTokenizerBase
    max_tokens: int

    def __call__(self, items: Sequence[Item]) -> list[Verdict]:
        """What becomes of each of `items`."""
        if any(isinstance(item.content, Labelled) for item in items):
            return self._labelled(items)
        verdicts = [Verdict() for _ in items]
        examples = [self._examples(item, verdict) for item, verdict in zip(items, verdicts, strict=True)]
        rows = iter(tokenized([example for of_item in examples for example in of_item], self.tokenizer))
        longest = self._longest(items)
        for i, (item, verdict) in enumerate(zip(items, verdicts, strict=True)):
            for example in examples[i]:
                row = next(rows)
                tokens = max(len(row.tokens), longest[i])
                if self._is_empty(item, len(row.tokens), row.scored):
                    verdict.left_out[EMPTY] += 1
                elif tokens > self.max_tokens:
                    verdict.left_out[TOO_LONG] += 1
                    verdict.said = self._limit
                else:
                    verdict.admitted.append(Admitted(item.row, example, len(row.tokens), row.scored))
        return verdicts

    @property
    def _limit(self) -> str:
        return f"no more than {self.max_tokens} tokens of one are read"

    def _labelled(self, items: Sequence[Item]) -> list[Verdict]:
        contents = [item.content for item in items if isinstance(item.content, Labelled)]
        rows = encoded_pairs(contents, self.tokenizer, self.max_tokens + 1)
        verdicts = []
        for item, content, row in zip(items, contents, rows, strict=True):
            tokens = len(row["input_ids"])
            if tokens > self.max_tokens:
                verdicts.append(Verdict(left_out=Counter({TOO_LONG: 1}), said=self._limit))
            else:
                verdicts.append(Verdict([Admitted(item.row, content, tokens, 1)]))
        return verdicts

    def _examples(self, item: Item, verdict: Verdict) -> list[TextPair]:
        content = item.content
        if isinstance(content, Document):
            return [Example("", piece) for piece in self._pieces(content.text)]
        if isinstance(content, Question | Example):
            return [content]
        assert isinstance(content, Conversation)
        try:
            return [templated(content, self.tokenizer)]
        except UnwritableConversationError as error:
            verdict.left_out[UNWRITABLE] += 1
            verdict.said = str(error)
            return []

    def _is_empty(self, item: Item, tokens: int, scored: int) -> bool:
        """Whether nothing is left to predict; a plain text needs two tokens of its own."""
        ended = self.tokenizer.eos_token_id is not None
        return scored < 1 or (isinstance(item.content, Document) and tokens - ended < 2)

    def _longest(self, items: Sequence[Item]) -> list[int]:
        """Tokens of the longest choice with its question and an end; 0 for what has none."""
        texts = [
            [content.prompt + option for option in content.continuations] if isinstance(content, Question) else []
            for content in (item.content for item in items)
        ]
        flat = [text for of_item in texts for text in of_item]
        lengths = iter([len(row) + 1 for row in token_ids(self.tokenizer, flat)] if flat else [])
        return [max((next(lengths) for _ in of_item), default=0) for of_item in texts]

    def _pieces(self, text: str) -> list[str]:
        """A plain text in pieces that fit, parted at white space; whole where tokens have no places in it."""
        fits = max(1, self.max_tokens - min(_ROOM, self.max_tokens // 4))
        if not self.tokenizer.is_fast:
            return [text]
        starts = [start for start, _ in self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"]]  # fmt: skip
        pieces, begin, token = [], 0, 0
        while len(starts) - token > fits:
            limit = starts[token + fits]
            space = max(text.rfind(blank, begin + 1, limit) for blank in (" ", "\n", "\t"))
            cut = space if space > begin else limit
            pieces.append(text[begin:cut])
            begin = cut
            token = next(k for k in range(token + 1, token + fits + 1) if starts[k] >= cut)
        return [piece for piece in (*pieces, text[begin:]) if piece.strip()]


def as_written(example: TextPair) -> str:
    """All of an example as one text."""
    return example.text if isinstance(example, ScoredText) else example.prompt + example.completion
