"""A ledger refuses scores taken otherwise: whatever argument of an evaluator changes its score changes its settings."""

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch

from evaluators import (
    HOROWITZ_45NM,
    Classification,
    CompletionPerplexity,
    Divergence,
    Ended,
    Energy,
    ExactMatch,
    Example,
    FormatKept,
    KVCacheBytes,
    Labelled,
    Latency,
    LengthChange,
    Macs,
    MultipleChoiceAccuracy,
    NonZeroParameters,
    ParameterCount,
    PeakMemory,
    Perplexity,
    Problem,
    Question,
    Racing,
    Regression,
    Repetition,
    Roofline,
    Screening,
    WeightBytes,
)
from tests.tiny import tiny_llama, tiny_tokenizer

# What a score is called, and what it costs to take it.
LABELS = {"name", "direction", "unit", "token_budget", "memory_bytes", "wait_seconds"}
QUESTIONS = [Question(f"{i}?", ("0", "1"), i % 2) for i in range(4)]
LABELLED = [Labelled(f"{i}?", i % 2) for i in range(4)]
PROBLEMS = [Problem(f"{i}?", str(i)) for i in range(3)]
PASS: dict[str, Any] = {"batch": 2, "tokens": 16, "phase": "decode"}


def templated():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}on {{ m.content }}{% endfor %}"
    return tokenizer


WRITING: dict[str, Any] = {"prompts": ["a", "c"], "max_new_tokens": 3, "chat": True}
COMPARING = (
    {"base": tiny_llama(), "tokenizer": templated(), "prompts": ["the cat", "a warm stone"]},
    {"base": tiny_llama(seed=1), "prompts": ["the cat", "on"], "max_new_tokens": 3, "chat": True},
)
OTHERWISE: dict[type, tuple[dict[str, Any], dict[str, Any]]] = {  # how each is made, and what else each argument may be
    MultipleChoiceAccuracy: (
        {"questions": QUESTIONS},
        {"questions": QUESTIONS[:2], "normalize": "characters", "racing": Racing(), "screening": Screening()},
    ),
    Perplexity: ({"texts": ["a b c", "d e f"]}, {"texts": ["a b c", "d e g"], "max_tokens": 8}),
    CompletionPerplexity: ({"examples": [Example("a", "b"), Example("c", "d")]}, {"examples": [Example("a", "b")] * 2}),
    ExactMatch: (
        {"problems": PROBLEMS},
        {
            "problems": PROBLEMS[:2],
            "pattern": r"(\d)",
            "take": "first",
            "max_new_tokens": 4,
            "stop": (".",),
            "template": "{question}",
        },
    ),
    Classification: (
        {"examples": LABELLED},
        {"examples": LABELLED[:3], "metric": "matthews", "max_tokens": 8},
    ),
    Regression: ({"examples": LABELLED}, {"examples": [*LABELLED, LABELLED[0]], "metric": "spearman", "max_tokens": 8}),
    Ended: ({"prompts": ["a", "b"]}, WRITING),
    Repetition: ({"prompts": ["a", "b"]}, {**WRITING, "words": 2}),
    FormatKept: ({"prompts": ["a", "b"]}, {**WRITING, "format": ".*"}),
    Divergence: COMPARING,
    LengthChange: COMPARING,
    Latency: ({}, {**PASS, "repeats": 3, "warmup": 1, "threads": torch.get_num_threads() + 1, "dtype": "bfloat16"}),
    ParameterCount: ({}, {"merged": False}),
    NonZeroParameters: ({}, {}),
    Macs: ({}, {"batch": 2, "tokens": 16, "past": 4, "layer_weights_only": True}),
    WeightBytes: ({}, {"sparse": True}),
    KVCacheBytes: ({}, {"batch": 2, "tokens": 16, "bits": 8}),
    PeakMemory: ({}, {**PASS, "fused_attention": False}),
    Roofline: ({"device": "l4"}, {**PASS, "device": "rtx-4090"}),
    Energy: ({}, {**PASS, "costs": replace(HOROWITZ_45NM, pj_per_byte=1.0)}),
}
# Latency's device and graphs need a GPU, its runtime and reference have tests of their own; so has energy's device,
# which counts where something is drawn while idle. A base's tokenizer is its sub-networks'.
ELSEWHERE = {"tokenizer", "device", "cuda_graphs", "runtime", "reference"}


@pytest.mark.parametrize("kind", OTHERWISE, ids=lambda kind: kind.__name__)
def test_whatever_changes_a_score_changes_the_settings(kind: type) -> None:
    made, otherwise = OTHERWISE[kind]
    assert set(inspect.signature(kind).parameters) - set(otherwise) <= LABELS | ELSEWHERE
    plain = kind(**made).settings()
    assert plain == kind(**made).settings()
    for name, value in otherwise.items():
        assert kind(**made | {name: value}).settings() != plain, name
