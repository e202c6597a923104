"""Perplexity of completions and answers against full logits of each example alone, and against training's loss."""

import importlib
import math
import random
import tomllib
from pathlib import Path

import pytest
import torch

from evaluators import CompletionPerplexity, Example, Perplexity, Question, ScoredText
from evaluators.text.examples import tokenized
from nas_engine.texts.examples import batch_of, tokenize
from nas_engine.training.answers import answer_loss
from tests.evaluators.multiple_choice.test_multiple_choice import WORDS
from tests.supernets import DECODERS, FAMILIES, random_adapters, supernetwork
from tests.tiny import tiny_bert, tiny_llama, tiny_tokenizer


def examples(count: int = 9, seed: int = 0) -> list:
    """Pairs, questions and texts of two answers each."""
    rng = random.Random(seed)

    def words() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, 8)))

    made: list = []
    for i in range(count):
        first, second = f"{i} {words()}:", f" {words()}."
        text = first + second + first + second + " the"
        ends = len(first + second), len(first + second + first)
        made.append(
            [
                Example(first, second),
                Question(words(), (words(), f"{words()} the"), 1),
                ScoredText(text, ((len(first), ends[0]), (ends[1], ends[1] + len(second)))),
            ][i % 3]
        )
    return made


@torch.inference_mode()
def plain(model, asked: list) -> tuple[list[float], list[int]]:
    """Summed losses and counts of every example's scored tokens, from the full logits of a row of its own."""
    tokenizer, losses, counts = tiny_tokenizer(), [], []
    for example in asked:
        if isinstance(example, ScoredText):
            parts = [tokenizer(example.text[:edge])["input_ids"] for span in example.spans for edge in span]
            ids = tokenizer(example.text)["input_ids"]
            positions = [
                i for start, end in zip(parts[::2], parts[1::2], strict=True) for i in range(len(start), len(end))
            ]
        else:
            ids = [*tokenizer(example.prompt + example.completion)["input_ids"], tokenizer.eos_token_id]
            positions = list(range(len(tokenizer(example.prompt)["input_ids"]), len(ids)))
        logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        losses.append(-sum(logits[i - 1, ids[i]].item() for i in positions))
        counts.append(len(positions))
    return losses, counts


@pytest.mark.parametrize("family", DECODERS)
def test_perplexity_is_that_of_full_logits_at_the_scored_tokens_alone(family: str) -> None:
    model, asked = FAMILIES[family](), examples()
    losses, counts = plain(model, asked)
    measured = CompletionPerplexity(asked, token_budget=128).measure(model, tiny_tokenizer())
    assert measured.value == pytest.approx(math.exp(sum(losses) / sum(counts)), rel=1e-4)
    assert measured.n == len(asked)


def test_scored_is_what_training_learns() -> None:
    model, asked = tiny_llama(), examples()
    batch = batch_of(tokenize(asked, tiny_tokenizer(), 256), 1, torch.device("cpu"))
    with torch.inference_mode():
        loss = answer_loss(model, batch).item()
    assert CompletionPerplexity(asked).measure(model, tiny_tokenizer()).value == pytest.approx(math.exp(loss), rel=1e-5)


def test_standard_error_is_the_spread_over_samples_of_examples() -> None:
    model, asked = tiny_llama(), examples(60)
    losses, counts = (torch.tensor(values, dtype=torch.double) for values in plain(model, asked))
    picks = torch.randint(60, (4000, 60), generator=torch.Generator().manual_seed(0))
    bootstrap = (losses[picks].sum(1) / counts[picks].sum(1)).exp().std().item()
    assert CompletionPerplexity(asked).measure(model, tiny_tokenizer()).stderr == pytest.approx(bootstrap, rel=0.1)


def test_batches_change_no_score() -> None:
    model, asked = tiny_llama(), examples(20)
    alone = CompletionPerplexity(asked, token_budget=1).measure(model, tiny_tokenizer())
    for budget in (100, 300, 100_000):
        together = CompletionPerplexity(asked, token_budget=budget).measure(model, tiny_tokenizer())
        assert together.value == pytest.approx(alone.value, rel=1e-5)
        assert together.stderr == pytest.approx(alone.stderr, rel=1e-4)


def test_what_follows_the_last_answer_changes_nothing() -> None:
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    short, long = ([ScoredText(f"{i} the{rest}", ((1, 5),)) for i in range(4)] for rest in ("", " water on the " * 9))
    expected = CompletionPerplexity(short).measure(model, tokenizer)
    assert CompletionPerplexity(long).measure(model, tokenizer).value == pytest.approx(expected.value, rel=1e-6)


def test_plain_texts_are_scored_as_perplexity_scores_them_and_their_end() -> None:
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    texts = ["the cat ate the water", "on the 12 in the"]
    whole = CompletionPerplexity([Example("", text) for text in texts]).measure(model, tokenizer)
    ended = Perplexity([f"{text}<eos>" for text in texts]).measure(model, tokenizer)
    assert whole.value == pytest.approx(ended.value, rel=1e-6)


def test_subnetwork_is_scored_as_it_runs_in_the_supernetwork() -> None:
    supernet = random_adapters(supernetwork(tiny_llama()))
    subnet = supernet.subnetwork(supernet.space.configuration(supernet.space.smallest))
    expected = CompletionPerplexity(examples()).measure(subnet.extract(), tiny_tokenizer())
    assert CompletionPerplexity(examples())(subnet).value == pytest.approx(expected.value, rel=1e-4)


def test_tokens_of_characters_are_those_of_prefixes() -> None:
    text = ScoredText("the 😀 cat: ate\n\nthe water", ((4, 5), (11, 14)))
    example = tokenized([text], tiny_tokenizer())[0]
    said = [tiny_tokenizer().decode(list(example.tokens[start:end])) for start, end in example.spans]
    assert [part.strip() for part in said] == ["😀", "ate"]
    assert example.scored == sum(end - start for start, end in example.spans)


def test_its_name_is_announced() -> None:
    points = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["entry-points"]
    module, _, name = points["nas_engine.evaluators"]["completion_perplexity"].partition(":")
    assert getattr(importlib.import_module(module), name) is CompletionPerplexity


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="examples holds 1"):
        CompletionPerplexity(examples(1))
    with pytest.raises(ValueError, match="token_budget is 0"):
        CompletionPerplexity(examples(), token_budget=0)
    for spans in ((), ((2, 2),), ((3, 1),), ((0, 99),)):
        with pytest.raises(ValueError, match="spans are"):
            ScoredText("the cat", spans)


def test_models_and_examples_that_give_no_perplexity_are_refused() -> None:
    tokenizer, asked = tiny_tokenizer(), CompletionPerplexity(examples())
    with pytest.raises(ValueError, match="training mode"):
        asked.measure(tiny_llama().train(), tokenizer)
    with pytest.raises(ValueError, match="BertForSequenceClassification has no output head"):
        asked.measure(tiny_bert(), tokenizer)
    with pytest.raises(ValueError, match=r"example 2 .* has no token to score in ''"):
        CompletionPerplexity([Example("a", "b"), Example("a", "")]).measure(tiny_llama(), tokenizer)
    with pytest.raises(ValueError, match="example 1 takes .* positions, but the model reads 8"):
        asked.require_readable(tiny_llama(max_position_embeddings=8), tokenizer)
