"""Texts as tokens, whatever a tokenizer puts around them, and where a continuation begins."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from evaluators import MultipleChoiceAccuracy, Perplexity, Question
from evaluators.multiple_choice.packing import tokenized_questions
from evaluators.text.encoding import shared_start, token_ids
from evaluators.text.generation import greedy
from nas_engine.texts.examples import tokenize
from tests.tiny import tiny_llama, tiny_tokenizer

QUESTIONS = (Question("the cat", ("ate", "ran", "sat on it"), 2), Question("on the", ("x", "yes"), 1))


def with_template(single: str):
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<eos>", 0)]
    )
    return tokenizer


def test_what_a_tokenizer_puts_after_a_text_changes_nothing() -> None:
    plain, ended, model = tiny_tokenizer(), with_template("$A <eos>"), tiny_llama()
    assert tokenized_questions(QUESTIONS, ended) == tokenized_questions(QUESTIONS, plain)
    accuracy = MultipleChoiceAccuracy(QUESTIONS)
    torch.testing.assert_close(accuracy.scores(model, ended), accuracy.scores(model, plain))
    assert tokenize(QUESTIONS, ended, 64) == tokenize(QUESTIONS, plain, 64)
    assert greedy(model, ended, ["the cat"], 6) == greedy(model, plain, ["the cat"], 6)
    texts = Perplexity(["the cat ate", "on the water it ran"], max_tokens=8)
    assert texts.measure(model, ended).value == texts.measure(model, plain).value


def test_what_a_tokenizer_puts_before_a_text_is_read() -> None:
    begun = with_template("<eos> $A")
    assert [row[0] for row in token_ids(begun, ["the cat", "on"])] == [0, 0]
    assert tokenized_questions(QUESTIONS, begun)[0].prompt == (
        0,
        *tokenized_questions(QUESTIONS, tiny_tokenizer())[0].prompt,
    )


def test_tokenizer_changed_in_place_is_asked_again() -> None:
    tokenizer, model = tiny_tokenizer(), tiny_llama()
    texts, accuracy = Perplexity(["the cat ate", "on the water"]), MultipleChoiceAccuracy(QUESTIONS)
    before = texts.measure(model, tokenizer).value, accuracy.scores(model, tokenizer)
    tokenizer.backend_tokenizer.post_processor = with_template("<eos> $A").backend_tokenizer.post_processor
    fresh = with_template("<eos> $A")
    assert texts.measure(model, tokenizer).value == texts.measure(model, fresh).value != before[0]
    torch.testing.assert_close(accuracy.scores(model, tokenizer), accuracy.scores(model, fresh))


def test_token_that_spans_prompt_and_answer_is_scored_and_learned() -> None:
    merges = [(":", "Ġ"), (":Ġ", "C")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = dict.fromkeys(["<eos>", "<pad>", *alphabet, *("".join(merge) for merge in merges)])
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(words)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")
    question = Question("x", ("C", "D"), 0)
    options = [tokenizer.decode(list(option)) for option in tokenized_questions((question,), tokenizer)[0].options]
    assert options == [": C", ": D"]
    learned = tokenize([question], tokenizer, 99)[0]
    assert tokenizer.decode(list(learned.tokens[learned.spans[0][0] :])) == ": C<eos>"
    assert shared_start((1, 2, 3), (1, 2, 4, 5)) == 2
