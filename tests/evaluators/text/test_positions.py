"""What a model says of a text depends on no other text of its batch, whichever way its positions are computed."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from evaluators import MultipleChoiceAccuracy, Perplexity, Question
from evaluators.text.encoding import token_ids
from evaluators.text.generation import greedy
from evaluators.text.halving import Halving
from evaluators.text.positions import regime, switching_lengths
from evaluators.text.token_losses import scored_losses
from nas_engine import SuperNetwork, train
from nas_engine.compression import sparsify
from nas_engine.texts.examples import Example, TokenizedExample, batch_of, tokenize
from nas_engine.training.answers import predictions
from search_spaces import lora_rank, mlp_width
from tests.tiny import LONG_ROPE, tiny_gemma3, tiny_gpt2, tiny_llama, tiny_opt, tiny_phi3, tiny_tokenizer

SWITCHING = 48
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "phi3": partial(tiny_phi3, **LONG_ROPE),
    "llama": partial(tiny_llama, rope_parameters=LONG_ROPE["rope_parameters"]),
    "dynamic": partial(tiny_llama, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}),
    "gemma3": tiny_gemma3,
}


@pytest.fixture(scope="module", params=MODELS)
def model(request) -> PreTrainedModel:
    return MODELS[request.param]()


def text(words: int) -> str:
    return " ".join(["on", "the", "water", "at"][i % 4] for i in range(words))


def test_lengths_stand_in_the_configuration() -> None:
    assert {name: switching_lengths(make()) for name, make in MODELS.items()} == {
        "phi3": (SWITCHING,),
        "llama": (SWITCHING,),
        "dynamic": (),
        "gemma3": (),
    }
    assert [regime(tokens, (48, 64)) for tokens in (1, 48, 49, 64, 65)] == [0, 0, 1, 1, 2]


# Prompts of up to 60 tokens with options of up to 30: on both sides of the length, and across it.
asked = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(1, 20)), min_size=2, max_size=5)


@settings(max_examples=15, deadline=None)
@given(lengths=asked, budget=st.sampled_from([1, 256, 2048]))
def test_scores_are_those_of_each_question_alone(model: PreTrainedModel, lengths, budget: int) -> None:
    tokenizer = tiny_tokenizer()
    questions = [Question(f"{i} {text(a)}", (text(b), f"{text(c)} the"), 0) for i, (a, b, c) in enumerate(lengths)]
    together = MultipleChoiceAccuracy(questions, token_budget=budget).scores(model, tokenizer)
    for question, scores in zip(questions, together, strict=True):
        (prompt,) = token_ids(tokenizer, [question.prompt])
        for continuation, score in zip(question.continuations, scores, strict=True):
            (whole,) = token_ids(tokenizer, [question.prompt + continuation])
            with torch.inference_mode():
                logits = model(torch.tensor([whole[:-1]])).logits[0].log_softmax(-1)
            said = logits[range(len(whole) - 1), whole[1:]][len(prompt) - 1 :]
            torch.testing.assert_close(score, said.sum(), atol=1e-3, rtol=1e-4)


def test_losses_of_texts_are_those_of_each_alone(model: PreTrainedModel) -> None:
    (whole,) = token_ids(tiny_tokenizer(), [text(200)])
    rows = [TokenizedExample(whole[:length], ((1, length),)) for length in (5, 47, 48, 49, 50, 90)]
    together = scored_losses(model, rows, Halving(4096))
    alone = torch.cat([scored_losses(model, [row], Halving(4096)) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=1e-4)


def test_texts_are_generated_as_alone(model: PreTrainedModel) -> None:
    prompts = [text(words) for words in (1, 5, 16, 17, 18, 19, 20, 21, 35, 40)]
    prompts += [f"{prompt[:-1]}n" for prompt in prompts]  # and others of the same length
    lengths = [len(row) for row in token_ids(tiny_tokenizer(), prompts)]
    assert min(lengths) + 12 < SWITCHING < max(lengths)
    assert any(length <= SWITCHING < length + 12 for length in lengths)
    together = greedy(model, tiny_tokenizer(), prompts, 12)
    assert together == [greedy(model, tiny_tokenizer(), [prompt], 12)[0] for prompt in prompts]


def test_training_examples_are_read_as_alone(model: PreTrainedModel) -> None:
    examples = tokenize([Example(text(words), " the water") for words in (2, 10, 18, 21, 40)], tiny_tokenizer(), 256)
    assert min(len(e.tokens) for e in examples) < SWITCHING < max(len(e.tokens) for e in examples)
    with torch.inference_mode():
        together = predictions(model, batch_of(examples, 1, model.device))
        alone = [predictions(model, batch_of([example], 1, model.device)) for example in examples]
    for name in ("logits", "labels", "states"):
        expected = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(getattr(together, name), expected, atol=1e-4, rtol=1e-4)


def test_positions_of_an_unknown_kind_are_refused() -> None:
    model = tiny_llama()
    model.config.rope_parameters = {"rope_type": "mine"}
    questions = [Question("the", ("in", "at"), 0)] * 2
    for ask in (
        lambda: MultipleChoiceAccuracy(questions).measure(model, tiny_tokenizer()),
        lambda: greedy(model, tiny_tokenizer(), ["the"], 2),
    ):
        with pytest.raises(ValueError, match="rope_type is 'mine'.*known are longrope, default, dynamic"):
            ask()


@pytest.mark.parametrize(
    "make",
    [
        partial(tiny_gpt2, n_positions=64),
        *(partial(tiny, max_position_embeddings=64) for tiny in (tiny_opt, tiny_llama)),
    ],
)
def test_texts_longer_than_the_model_reads_are_named_with_what_is_allowed(make: Callable[[], PreTrainedModel]) -> None:
    model, tokenizer, long = make(), tiny_tokenizer(), text(40)
    questions = [Question("the", ("in", "at"), 0), Question(long, ("in", "at"), 0)]
    supernet = SuperNetwork.from_pretrained(make(), lora_rank((4,), ("up", "down")) + mlp_width((1.0, 0.5)), tokenizer)
    calibration = [{"input_ids": torch.ones(1, 65, dtype=torch.long), "attention_mask": torch.ones(1, 65)}]
    refusals: dict[str, Callable[[], object]] = {
        r"question 2 \(.*\) takes \d+ tokens with its longest choice, but .* is 64; shorten": lambda: (
            MultipleChoiceAccuracy(questions).measure(model, tokenizer)
        ),
        r"text 2 takes \d+ positions, but the model reads 64; give max_tokens=65": lambda: Perplexity(
            ["on the water", long]
        ).measure(model, tokenizer),
        r"prompt 2 \(.*\) takes \d+ tokens and up to 2 new ones, but the model reads 64; shorten": lambda: greedy(
            model, tokenizer, ["the", long], 2
        ),
        r"training example 1 has \d+ tokens, but the model reads 64; shorten": lambda: train(
            supernet, questions, steps=1, batch_size=1, progress=False
        ),
        r"calibration text takes 65 tokens, but the model reads 64; shorten": lambda: supernet.order_by_importance(
            calibration
        ),
    }
    for message, ask in refusals.items():
        with pytest.raises(ValueError, match=message):
            ask()
    with pytest.raises(ValueError, match="calibration text takes 65"):
        supernet.sensitivity(calibration, progress=False)
    with pytest.raises(ValueError, match="calibration text takes 65"):
        sparsify(model, calibration, 0.5)
