"""Perplexity against full logits of one text after another."""

import math
import random

import pytest
import torch

from evaluators import Measurement, Perplexity
from tests.evaluators.multiple_choice.test_multiple_choice import WORDS
from tests.supernets import DECODERS, FAMILIES, random_adapters, supernetwork
from tests.tiny import tiny_bert, tiny_llama, tiny_tokenizer


def texts(count: int = 9, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [f"{i} " + " ".join(rng.choices(WORDS, k=rng.randint(1, 20))) for i in range(count)]


@torch.inference_mode()
def plain(model, asked: list[str], max_tokens: int = 512) -> tuple[list[float], list[int]]:
    """Summed losses and token counts of every text, from the full logits of a row of its own."""
    losses, counts = [], []
    for text in asked:
        ids = tiny_tokenizer()(text)["input_ids"][:max_tokens]
        logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        losses.append(-sum(logits[i, token].item() for i, token in enumerate(ids[1:])))
        counts.append(len(ids) - 1)
    return losses, counts


@pytest.mark.parametrize("family", DECODERS)
def test_perplexity_is_that_of_full_logits_of_each_text_alone(family: str) -> None:
    model, asked = FAMILIES[family](), texts()
    losses, counts = plain(model, asked)
    measured = Perplexity(asked, token_budget=64).measure(model, tiny_tokenizer())
    assert measured.value == pytest.approx(math.exp(sum(losses) / sum(counts)), rel=1e-4)
    assert measured.n == len(asked)


def test_standard_error_is_the_spread_over_samples_of_texts() -> None:
    model, asked = tiny_llama(), texts(60)
    losses, counts = (torch.tensor(values, dtype=torch.double) for values in plain(model, asked))
    picks = torch.randint(60, (4000, 60), generator=torch.Generator().manual_seed(0))
    bootstrap = (losses[picks].sum(1) / counts[picks].sum(1)).exp().std().item()
    assert Perplexity(asked).measure(model, tiny_tokenizer()).stderr == pytest.approx(bootstrap, rel=0.1)


def test_budget_and_memory_change_no_score(monkeypatch) -> None:
    model, asked = tiny_llama(), texts(20)
    expected = Perplexity(asked, token_budget=400).measure(model, tiny_tokenizer())
    forward, tokens = type(model.model).forward, []

    def scarce(self, input_ids, **kwargs):
        tokens.append(input_ids.numel())
        if input_ids.numel() > 100:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, input_ids, **kwargs)

    monkeypatch.setattr(type(model.model), "forward", scarce)
    perplexity = Perplexity(asked, token_budget=400)
    assert perplexity.measure(model, tiny_tokenizer()).value == pytest.approx(expected.value, rel=1e-6)
    failed = sum(count > 100 for count in tokens)
    assert failed > 1
    perplexity.measure(model, tiny_tokenizer())
    assert sum(count > 100 for count in tokens) == failed  # the budget is remembered


def test_long_texts_are_cut_off() -> None:
    model, asked = tiny_llama(), texts()
    losses, counts = plain(model, asked, max_tokens=6)
    measured = Perplexity(asked, max_tokens=6).measure(model, tiny_tokenizer())
    assert measured.value == pytest.approx(math.exp(sum(losses) / sum(counts)), rel=1e-4)


def test_subnetwork_is_scored_as_it_runs_in_the_supernetwork() -> None:
    supernet = random_adapters(supernetwork(tiny_llama()))
    subnet = supernet.subnetwork(supernet.space.configuration(supernet.space.smallest))
    expected = Perplexity(texts()).measure(subnet.extract(), tiny_tokenizer())
    measured = Perplexity(texts())(subnet)
    assert isinstance(measured, Measurement)
    assert measured.value == pytest.approx(expected.value, rel=1e-4)


def test_settings_change_with_what_changes_the_score_alone() -> None:
    base = Perplexity(texts()).settings()
    assert Perplexity(texts(), token_budget=9).settings() == base
    assert Perplexity(texts(), max_tokens=9).settings() != base
    assert Perplexity(texts()[1:]).settings() != base


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": []}, "texts holds 0"),
        ({"texts": ["one"]}, "texts holds 1"),
        ({"texts": "one text"}, "a single text; give a list"),
        ({"texts": ["one", " "]}, "text 2 is ' '"),
        ({"texts": ["one", 2]}, "text 2 is 2"),
        ({"max_tokens": 1}, "max_tokens is 1"),
        ({"token_budget": 0}, "token_budget is 0"),
    ],
)
def test_bad_input_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Perplexity(**{"texts": texts()} | arguments)


def test_models_and_texts_that_give_no_perplexity_are_refused() -> None:
    with pytest.raises(ValueError, match="training mode"):
        Perplexity(texts()).measure(tiny_llama().train(), tiny_tokenizer())
    with pytest.raises(ValueError, match="BertForSequenceClassification has no output head"):
        Perplexity(texts()).measure(tiny_bert(), tiny_tokenizer())
    with pytest.raises(ValueError, match=r"text 1 \('a'\) has 1 token"):
        Perplexity(["a", "the cat"]).measure(tiny_llama(), tiny_tokenizer())
    with pytest.raises(ValueError, match="reads 16; give max_tokens=17"):
        Perplexity(texts()).measure(tiny_llama(max_position_embeddings=16), tiny_tokenizer())
