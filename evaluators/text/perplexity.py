"""Perplexity of plain texts: how surprised a model is by a token of them. Generates nothing."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.checks import require_at_least
from evaluators.protocol import Direction, EvaluatorDefaults, Measurement, Subnetwork
from evaluators.text.encoding import encoding_state, token_ids
from evaluators.text.examples import TokenizedExample
from evaluators.text.halving import Halving
from evaluators.text.token_losses import batch_budget, perplexity_of, require_scorable
from search_spaces.fingerprint import fingerprint_of


class Perplexity(EvaluatorDefaults):
    """``exp`` of the mean negative log-likelihood of a token, over all texts, each read from its own beginning.

    Every token but a text's first is scored; a tokenizer that begins with a token of its own has all of the text's
    scored. The standard error: see `evaluators.text.token_losses.perplexity_of`.

    Args:
        texts: two or more, none of them empty.
        max_tokens: a longer text is cut off after so many tokens.
        token_budget: tokens of one batch, padding included; more memory for larger ones. Does not change scores, and
            halves where memory runs out.
        name: column name of the score.

    Raises:
        ValueError: fewer than two texts, an empty one, or another argument out of range.
    """

    direction: Direction = "minimize"
    unit = ""

    def __init__(
        self, texts: Iterable[str], max_tokens: int = 512, token_budget: int = 2048, name: str = "perplexity"
    ) -> None:
        if isinstance(texts, str):
            raise ValueError("texts is a single text; give a list of them.")
        self.texts = tuple(texts)
        self.max_tokens, self.token_budget, self.name = max_tokens, token_budget, name
        self._budget: Halving | None = None
        if len(self.texts) < 2:
            raise ValueError(f"texts holds {len(self.texts)}; give two or more, so that errors can be estimated.")
        for i, text in enumerate(self.texts, start=1):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"text {i} is {text!r}; give texts that are not empty.")
        require_at_least(2, max_tokens=max_tokens)
        require_at_least(1, token_budget=token_budget)

    def __repr__(self) -> str:
        return f"Perplexity({len(self.texts)} texts, max_tokens={self.max_tokens})"

    def settings(self) -> Mapping[str, Any]:
        """The texts, as a hash and a count, and where they are cut off."""
        digest = fingerprint_of(self.texts)
        return {"texts": digest, "count": len(self.texts), "max_tokens": self.max_tokens}

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Perplexity of `subnet` as it runs in the super-network."""
        return self.measure(subnet.model, subnet.tokenizer)

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Measurement:
        """Perplexity of any Hugging Face causal language model.

        Raises:
            ValueError: the model is in training mode, has no output head or a rotary embedding of an unknown kind, or a
                text has fewer than two tokens or more than the model can read (it is named).
            MemoryError: not even the longest text alone fits.
        """
        rows = _tokenized(self.texts, tokenizer, self.max_tokens, encoding_state(tokenizer))
        require_scorable(model, rows, "text", "give max_tokens={most}")
        if self._budget is None:
            self._budget = batch_budget(rows, self.token_budget)
        return perplexity_of(model, rows, self._budget)

    def require_readable(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that `model` can read every text.

        Raises:
            ValueError: it cannot (the text is named), is in training mode or has no output head.
        """
        rows = _tokenized(self.texts, tokenizer, self.max_tokens, encoding_state(tokenizer))
        require_scorable(model, rows, "text", "give max_tokens={most}")


@lru_cache(maxsize=8)
def _tokenized(
    texts: tuple[str, ...], tokenizer: PreTrainedTokenizerBase, max_tokens: int, state: Hashable
) -> tuple[TokenizedExample, ...]:
    rows = token_ids(tokenizer, texts, max_tokens)
    for i, (text, row) in enumerate(zip(texts, rows, strict=True), start=1):
        if len(row) < 2:
            raise ValueError(f"text {i} ({text[:60]!r}) has {len(row)} token, so nothing to predict; leave it out.")
    return tuple(TokenizedExample(row, ((1, len(row)),)) for row in rows)
