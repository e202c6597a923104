"""Exact match: the model writes its answer, and it counts if it is the right one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.checks import require_at_least, require_one_of
from evaluators.protocol import Direction, EvaluatorDefaults, Measurement, Subnetwork
from evaluators.text.generation import greedy, longest_row, require_generable
from evaluators.text.halving import Halving
from evaluators.text.problems import Problem
from evaluators.text.written_answers import NUMBER, Take, compiled, extracted, normalized
from search_spaces.fingerprint import fingerprint_of

_QUESTION = "{question}"


class ExactMatch(EvaluatorDefaults):
    """Fraction of problems whose answer, generated greedily and cut out by a regular expression, is the right one.

    Answers are the same if they are the same number, or the same text but for case and spacing; see
    `evaluators.text.written_answers`. Generation runs on the extracted sub-network: decoding is where a smaller model
    is faster.

    Args:
        problems: two or more.
        pattern: a regular expression whose group captures the answer; by default a number.
        take: which match is the answer: the last, as of solutions that reason first, or the first.
        max_new_tokens: tokens that an answer may take.
        stop: a generated text ends before the first of these.
        template: the prompt, in which ``{question}`` stands for the question; worked examples may precede it.
        token_budget: tokens of one batch, padding and new tokens included; more memory for larger ones. Does not
            change scores, and halves where memory runs out.
        name: column name of the score.

    Raises:
        ValueError: fewer than two problems, a pattern without a group, a template without its question, an empty stop
            string, or another argument out of range.
    """

    direction: Direction = "maximize"
    unit = ""

    def __init__(
        self,
        problems: Iterable[Problem],
        pattern: str = NUMBER,
        take: Take = "last",
        max_new_tokens: int = 256,
        stop: Sequence[str] = ("Question:",),
        template: str = "Question: {question}\nAnswer:",
        token_budget: int = 8192,
        name: str = "exact_match",
    ) -> None:
        self.problems, self.pattern, self.take, self.name = tuple(problems), compiled(pattern), take, name
        self.max_new_tokens, self.template, self.token_budget = max_new_tokens, template, token_budget
        self.stop = (stop,) if isinstance(stop, str) else tuple(stop)
        self._budget: Halving | None = None
        if len(self.problems) < 2:
            raise ValueError(f"problems holds {len(self.problems)}; give two or more, so that errors can be estimated.")
        require_one_of(get_args(Take), take=take)
        require_at_least(1, max_new_tokens=max_new_tokens, token_budget=token_budget)
        if not all(self.stop):
            raise ValueError(f"stop is {list(self.stop)}; give texts that are not empty, or none at all.")
        if _QUESTION not in template:
            raise ValueError(f"template is {template!r}; it needs {_QUESTION} where the question goes.")

    def __repr__(self) -> str:
        return f"ExactMatch({len(self.problems)} problems, pattern={self.pattern.pattern!r})"

    def settings(self) -> Mapping[str, Any]:
        """The problems, as a hash and a count, and how they are asked and answered."""
        data = [[p.question, p.answer] for p in self.problems]
        return {
            "problems": fingerprint_of(data),
            "count": len(self.problems),
            "pattern": self.pattern.pattern,
            "take": self.take,
            "max_new_tokens": self.max_new_tokens,
            "stop": list(self.stop),
            "template": self.template,
        }

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Extract `subnet` and let it answer."""
        return self.measure(subnet.extract(share_embeddings=True), subnet.tokenizer)

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Measurement:
        """Exact match of any Hugging Face causal language model.

        Raises:
            ValueError, MemoryError: as `evaluators.text.generation.greedy`.
        """
        answers = [extracted(text, self.pattern, self.take) for text in self.texts(model, tokenizer)]
        correct = torch.tensor(
            [
                float(answer is not None and normalized(answer) == normalized(problem.final_answer))
                for answer, problem in zip(answers, self.problems, strict=True)
            ],
            dtype=torch.double,
        )
        n = len(correct)
        return Measurement(value=correct.mean().item(), stderr=correct.std(correction=1).item() / math.sqrt(n), n=n)

    def require_readable(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that `model` can read every problem and write an answer to it.

        Raises:
            ValueError: it cannot (the problem is named).
        """
        require_generable(model, tokenizer, self._prompts, self.max_new_tokens)

    @property
    def _prompts(self) -> list[str]:
        return [self.template.replace(_QUESTION, problem.question) for problem in self.problems]

    def texts(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """What `model` writes to each problem.

        Raises:
            ValueError, MemoryError: as `evaluators.text.generation.greedy`.
        """
        prompts = self._prompts
        if self._budget is None:
            longest = longest_row(tokenizer, prompts, self.max_new_tokens)
            self._budget = Halving(max(self.token_budget, longest), least=longest)
        return greedy(model, tokenizer, prompts, self.max_new_tokens, self.stop, self._budget)
