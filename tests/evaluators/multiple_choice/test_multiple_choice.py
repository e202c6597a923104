"""Packed scoring against the plain way: every option its own row, full logits."""

import math
import random

import pytest
import torch

from evaluators import MultipleChoiceAccuracy, Question, log_likelihoods
from tests.supernets import DECODERS, HYBRIDS, MIXTURES
from tests.supernets import FAMILIES as DENSE
from tests.tiny import tiny_bert, tiny_llama, tiny_tokenizer

FAMILIES = DENSE | MIXTURES | HYBRIDS
WORDS = ["the", "cat", "sat", "on", "a", "warm", "stone", "in", "their", "garden", "and", "then", "went", "north"]


def questions(count: int = 12, seed: int = 0) -> list[Question]:
    rng = random.Random(seed)

    def text(low: int, high: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))

    made = []
    for i in range(count):
        choices = tuple(f"{text(1, 5)} {j}" for j in range(rng.randint(2, 5)))
        made.append(Question(f"{i} {text(3, 15)}?", choices, rng.randrange(len(choices))))
    return made


@torch.inference_mode()
def plain_log_likelihood(model, tokenizer, prompt: str, continuation: str) -> float:
    whole, start = tokenizer(prompt + continuation)["input_ids"], len(tokenizer(prompt)["input_ids"])
    logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(logits[i - 1, whole[i]].item() for i in range(start, len(whole)))


@pytest.mark.parametrize("family", [*DECODERS, *MIXTURES, *HYBRIDS])
@pytest.mark.parametrize("token_budget", [64, 4096])
def test_packed_scores_are_those_of_one_row_an_option(family: str, token_budget: int) -> None:
    model, tokenizer, asked = FAMILIES[family](), tiny_tokenizer(), questions()
    scores = log_likelihoods(model, tokenizer, asked, token_budget)
    assert scores.shape == (12, max(len(q.choices) for q in asked))
    for row, question in zip(scores, asked, strict=True):
        expected = [plain_log_likelihood(model, tokenizer, question.prompt, c) for c in question.continuations]
        assert row[: len(expected)].tolist() == pytest.approx(expected, abs=1e-3)
        assert (row[len(expected) :] == -math.inf).all()


@pytest.mark.parametrize("normalize", [False, "characters"])
def test_accuracy_is_the_fraction_of_questions_answered_right_with_its_error(normalize) -> None:
    model, tokenizer, asked = tiny_llama(), tiny_tokenizer(), questions(20)
    correct = []
    for q in asked:
        sums = [plain_log_likelihood(model, tokenizer, q.prompt, c) for c in q.continuations]
        scores = [s / len(c) for s, c in zip(sums, q.choices, strict=True)] if normalize else sums
        correct.append(scores.index(max(scores)) == q.answer)
    measured = MultipleChoiceAccuracy(asked, normalize).measure(model, tokenizer)
    p = sum(correct) / 20
    assert measured.value == pytest.approx(p)
    assert measured.stderr == pytest.approx(math.sqrt(p * (1 - p) / 19))
    assert measured.n == 20


def test_settings_change_with_what_changes_the_score_alone() -> None:
    asked = questions()
    base = MultipleChoiceAccuracy(asked).settings()
    assert MultipleChoiceAccuracy(asked, token_budget=99).settings() == base
    assert MultipleChoiceAccuracy(asked, "characters").settings() != base
    assert MultipleChoiceAccuracy(asked[:-1]).settings() != base


def test_bad_input_is_refused() -> None:
    asked = questions()
    with pytest.raises(ValueError, match="questions holds 1"):
        MultipleChoiceAccuracy(asked[:1])
    with pytest.raises(ValueError, match="normalize"):
        MultipleChoiceAccuracy(asked, "words")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"question 1 .*max_position_embeddings is 16"):
        log_likelihoods(tiny_llama(max_position_embeddings=16), tiny_tokenizer(), asked)
    with pytest.raises(ValueError, match="training mode"):
        log_likelihoods(tiny_llama().train(), tiny_tokenizer(), asked)


def test_encoder_without_an_output_head_is_refused() -> None:
    with pytest.raises(ValueError, match="BertForSequenceClassification has no output head"):
        log_likelihoods(tiny_bert(), tiny_tokenizer(), questions(2))
