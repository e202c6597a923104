"""Perplexity of completions: how surprised a model is by the answers that it is to give. Generates nothing."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.checks import require_at_least
from evaluators.protocol import Direction, EvaluatorDefaults, Measurement, Subnetwork
from evaluators.text.encoding import encoding_state
from evaluators.text.examples import Example, ScoredText, TextPair, TokenizedExample, tokenized
from evaluators.text.halving import Halving
from evaluators.text.token_losses import batch_budget, perplexity_of, require_scorable
from search_spaces.fingerprint import fingerprint_of


class CompletionPerplexity(EvaluatorDefaults):
    """``exp`` of the mean negative log-likelihood of a completion's token, over all examples.

    Scored are the tokens that training takes its loss on, the end-of-text token after a completion among them; of a
    conversation the answers, with what ends a turn. The standard error: see
    `evaluators.text.token_losses.perplexity_of`.

    Args:
        examples: two or more, each with a prompt and its completion (`Example`, `Question`), or a text with the parts
            of it that are scored (`ScoredText`).
        token_budget: tokens of one batch, padding included; more memory for larger ones. Does not change scores, and
            halves where memory runs out.
        name: column name of the score.

    Raises:
        ValueError: fewer than two examples, or another argument out of range.
    """

    direction: Direction = "minimize"
    unit = ""

    def __init__(
        self, examples: Iterable[TextPair], token_budget: int = 2048, name: str = "completion_perplexity"
    ) -> None:
        self.examples = tuple(
            example if isinstance(example, ScoredText) else Example(example.prompt, example.completion)
            for example in examples
        )
        self.token_budget, self.name = token_budget, name
        self._budget: Halving | None = None
        if len(self.examples) < 2:
            raise ValueError(f"examples holds {len(self.examples)}; give two or more, so that errors can be estimated.")
        require_at_least(1, token_budget=token_budget)

    def __repr__(self) -> str:
        return f"CompletionPerplexity({len(self.examples)} examples)"

    def settings(self) -> Mapping[str, Any]:
        """The examples, as a hash and a count."""
        data = [
            [example.text, example.spans] if isinstance(example, ScoredText) else [example.prompt, example.completion]
            for example in self.examples
        ]
        digest = fingerprint_of(data)
        return {"examples": digest, "count": len(self.examples)}

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Perplexity of `subnet` as it runs in the super-network."""
        return self.measure(subnet.model, subnet.tokenizer)

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Measurement:
        """Perplexity of any Hugging Face causal language model.

        Raises:
            ValueError: as `require_readable`.
            MemoryError: not even the longest example alone fits.
        """
        rows = self._rows(model, tokenizer)
        if self._budget is None:
            self._budget = batch_budget(rows, self.token_budget)
        return perplexity_of(model, rows, self._budget)

    def require_readable(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that `model` can score every example, before anything long begins.

        Raises:
            ValueError: the model is in training mode, has no output head or a rotary embedding of an unknown kind, or
                an example has no token to score or more than the model can read (it is named).
        """
        self._rows(model, tokenizer)

    def _rows(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[TokenizedExample, ...]:
        rows = _tokenized(self.examples, tokenizer, encoding_state(tokenizer))
        require_scorable(model, rows, "example", "shorten it, or leave it out")
        return rows


@lru_cache(maxsize=8)
def _tokenized(
    examples: tuple[Example | ScoredText, ...], tokenizer: PreTrainedTokenizerBase, state: Hashable
) -> tuple[TokenizedExample, ...]:
    rows = tuple(tokenized(examples, tokenizer))
    for i, (example, row) in enumerate(zip(examples, rows, strict=True), start=1):
        if row.scored < 1:
            raise ValueError(
                f"example {i} ({example.prompt[-60:]!r}) has no token to score in {example.completion[:60]!r}; leave "
                "it out."
            )
    return rows
