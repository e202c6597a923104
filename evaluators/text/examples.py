"""Examples of which a part is scored: a prompt's completion, a conversation's answers. As texts, and as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from transformers import BatchEncoding, PreTrainedTokenizerBase

from evaluators.text.encoding import shared_start, token_ids

Span = tuple[int, int]
"""From a first position to the one after the last."""
_AT_ONCE = 512  # texts: which characters a token is of takes far more memory than the token


class TextPair(Protocol):
    """Anything with a prompt and its completion, such as `evaluators.Question`."""

    @property
    def prompt(self) -> str:
        """What the model is given."""
        ...

    @property
    def completion(self) -> str:
        """What it should say; the loss is taken here alone."""
        ...


@dataclass(frozen=True)
class Example:
    """A prompt and its completion; of a plain text, all of which is scored, the prompt is empty."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Turn(Example):
    """The last answer of a conversation, and how people would put it.

    Args:
        prompt: as the model reads it, in the words of its chat template.
        completion: as it should write it.
        question: what was said before.
        answer: what is right.
    """

    question: str
    answer: str


@dataclass(frozen=True)
class ScoredText:
    """A text of which some parts are scored, such as a conversation as its chat template writes it.

    It is read exactly as it stands: special tokens are written in it, and none is added.

    Args:
        text: all of it.
        spans: of its characters, those that are scored, ascending and apart.
        turn: of a conversation, what was said before the last answer, and that answer, without the template's words;
            to be shown, and of no matter otherwise.

    Raises:
        ValueError: no span, or spans that are empty, out of order or out of the text.
    """

    text: str
    spans: tuple[Span, ...]
    turn: tuple[str, str] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        edges = [edge for span in self.spans for edge in span]
        if not edges or edges != sorted(edges) or edges[0] < 0 or edges[-1] > len(self.text):
            raise ValueError(
                f"spans are {self.spans}; give one or more, ascending, within {len(self.text)} characters."
            )
        if any(start == end for start, end in self.spans):
            raise ValueError(f"spans are {self.spans}; give none that is empty.")

    @property
    def prompt(self) -> str:
        """What comes before the last span."""
        return self.text[: self.spans[-1][0]]

    @property
    def completion(self) -> str:
        """The last span."""
        return self.text[slice(*self.spans[-1])]


@dataclass(frozen=True)
class TokenizedExample:
    """Token ids of an example, and which of them are scored: those of its completion, or of several answers.

    Args:
        tokens: all of them.
        spans: of positions in `tokens`, ascending and apart.
    """

    tokens: tuple[int, ...]
    spans: tuple[Span, ...]

    @property
    def scored(self) -> int:
        """How many tokens are scored; never the first, which nothing predicts."""
        return sum(end - max(start, 1) for start, end in self.spans)


def tokenized(examples: Sequence[TextPair], tokenizer: PreTrainedTokenizerBase) -> list[TokenizedExample]:
    """Token ids of every example.

    The tokenizer's end-of-text token follows each completion, so that models learn to stop; a `ScoredText` says itself
    where it ends. Where a completion has no token of its own, nothing is scored.
    """
    texts = [example for example in examples if isinstance(example, ScoredText)]
    pairs = [example for example in examples if not isinstance(example, ScoredText)]
    of_texts, of_pairs = iter(_of_texts(texts, tokenizer)), iter(_of_pairs(pairs, tokenizer))
    return [next(of_texts if isinstance(example, ScoredText) else of_pairs) for example in examples]


def _of_pairs(pairs: Sequence[TextPair], tokenizer: PreTrainedTokenizerBase) -> list[TokenizedExample]:
    if not pairs:
        return []
    prompts = token_ids(tokenizer, [pair.prompt for pair in pairs])
    wholes = token_ids(tokenizer, [pair.prompt + pair.completion for pair in pairs])
    return [_of_pair(prompt, whole, tokenizer.eos_token_id) for prompt, whole in zip(prompts, wholes, strict=True)]


def _of_pair(prompt: tuple[int, ...], whole: tuple[int, ...], end: int | None) -> TokenizedExample:
    start = shared_start(prompt, whole)  # a token may span the boundary
    if len(whole) <= start:
        return TokenizedExample(whole, ())
    if end is not None and whole[-1] != end:
        whole = (*whole, end)
    return TokenizedExample(whole, ((start, len(whole)),))


def _of_texts(texts: Sequence[ScoredText], tokenizer: PreTrainedTokenizerBase) -> list[TokenizedExample]:
    blocks = [texts[i : i + _AT_ONCE] for i in range(0, len(texts), _AT_ONCE)]
    return [example for block in blocks for example in _of_block(block, tokenizer)]


def _of_block(texts: Sequence[ScoredText], tokenizer: PreTrainedTokenizerBase) -> list[TokenizedExample]:
    rows: BatchEncoding = tokenizer([text.text for text in texts], add_special_tokens=False)
    found = []
    for i, text in enumerate(texts):
        tokens = tuple(rows["input_ids"][i])
        if tokenizer.is_fast:
            spans = [_covering(rows, i, span, len(tokens)) for span in text.spans]
        else:
            spans = [_by_prefixes(tokenizer, text.text, span, tokens) for span in text.spans]
        found.append(TokenizedExample(tokens, _apart(spans)))
    return found


def _covering(rows: BatchEncoding, row: int, span: Span, length: int) -> Span:
    """The tokens that a span of characters touches; some tokenizers give blanks to no token."""
    characters = range(*span)
    first = next((t for c in characters if (t := rows.char_to_token(row, c)) is not None), length)
    last = next((t for c in reversed(characters) if (t := rows.char_to_token(row, c)) is not None), -1)
    # A character of several tokens names its first.
    while 0 <= last < length - 1 and rows.token_to_chars(row, last + 1) == rows.token_to_chars(row, last):
        last += 1
    return first, last + 1


def _by_prefixes(tokenizer: PreTrainedTokenizerBase, text: str, span: Span, tokens: tuple[int, ...]) -> Span:
    """As `_covering`, for a tokenizer that does not say which characters a token is of."""
    first, last = (shared_start(tokenizer(text[:edge], add_special_tokens=False)["input_ids"], tokens) for edge in span)
    return first, last


def _apart(spans: Sequence[Span]) -> tuple[Span, ...]:
    """`spans` without those that are empty, and no token in two of them."""
    found: list[Span] = []
    for start, end in spans:
        start = max(start, found[-1][1]) if found else start
        if start < end:
            found.append((start, end))
    return tuple(found)
