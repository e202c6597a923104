"""What a model does when it writes by itself: whether texts end, repeat, keep a format, and stay near the base's."""

import json
import math

import pytest
import torch

from evaluators import Divergence, Ended, Evaluator, FormatKept, LengthChange, Measurement, Repetition, greedy
from evaluators.text.generation import Written, written
from nas_engine import search
from search_spaces import lora_rank, mlp_width
from tests.supernets import random_adapters, smallest, supernetwork
from tests.tiny import tiny_llama, tiny_tokenizer

PROMPTS = ["the cat", "a warm stone in their garden and then", "on", "then went north in the garden"]


def texts(*said: str, ended: bool = True) -> list[Written]:
    return [Written(text, (), ended) for text in said]


@pytest.fixture(scope="module")
def net():
    return random_adapters(supernetwork(tiny_llama(), lora_rank((4, 2)) + mlp_width((1.0, 0.5), multiple_of=8)))


def test_a_text_ends_where_the_model_says_so() -> None:
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    long = written(model, tokenizer, PROMPTS, 12)
    assert [text.text for text in long] == greedy(model, tokenizer, PROMPTS, 12)
    assert all(len(text.tokens) == 12 and not text.ended for text in long)
    model.generation_config.eos_token_id = long[0].tokens[5]
    ended = written(model, tokenizer, PROMPTS, 12)
    assert ended[0].ended
    assert ended[0].tokens == long[0].tokens[: long[0].tokens.index(long[0].tokens[5])]
    found = Ended(PROMPTS, 12).measure(model, tokenizer)
    shares = [float(model.generation_config.eos_token_id in text.tokens) for text in long]
    assert found.value == pytest.approx(sum(shares) / 4)
    assert 0 < found.value <= 1


def test_repetition_counts_what_was_said_before() -> None:
    evaluator = Repetition(PROMPTS, words=2)
    said = texts("a b a b a b", "a b c d", "a", "")
    assert evaluator.scores(said) == pytest.approx([1 - 2 / 5, 0.0, 0.0, 0.0])


def test_formats_are_kept_or_not() -> None:
    said = texts('{"a": 1}', " [1, 2]\n", "{a: 1}", "")
    assert FormatKept(PROMPTS).scores(said) == [1.0, 1.0, 0.0, 0.0]
    assert FormatKept(PROMPTS, r"\d+|\s*").scores(texts("12", "12 a", "", "3\n")) == [1.0, 0.0, 1.0, 1.0]
    with pytest.raises(ValueError, match=r"format is '\(', which is neither json nor a regular expression"):
        FormatKept(PROMPTS, "(")


def test_divergence_is_the_mean_over_the_base_s_own_tokens(net) -> None:
    base, tokenizer = net.largest.extract(), net.tokenizer
    evaluator = Divergence(PROMPTS, 8, base=base, tokenizer=tokenizer)
    assert evaluator(net.largest).value == pytest.approx(0.0, abs=1e-6)
    small = smallest(net).extract()
    each = []
    for prompt, text in zip(PROMPTS, greedy(base, tokenizer, PROMPTS, 8), strict=True):
        start = len(tokenizer(prompt)["input_ids"])
        ids = torch.tensor([[*tokenizer(prompt)["input_ids"], *written(base, tokenizer, [prompt], 8)[0].tokens]])
        assert tokenizer.decode(ids[0, start:]) == text
        with torch.no_grad():
            logs = [model(ids).logits[0, start - 1 : -1].double().log_softmax(-1) for model in (base, small)]
        each.append((logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean().item())
    found = evaluator(smallest(net))
    assert found.n == 4
    exact = sum(each) / 4  # of a vocabulary of which 256 tokens are told apart
    assert 0.98 * exact < found.value < exact
    assert found.stderr == pytest.approx(torch.tensor(each).double().std().item() / math.sqrt(4), rel=0.02)


def test_lengths_are_beside_the_base_s_either_way() -> None:
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    long = written(model, tokenizer, PROMPTS, 12)
    short = tiny_llama()  # the same, but it ends where the first text has its sixth token, or before
    short.generation_config.eos_token_id = long[0].tokens[5]
    lengths = [text.tokens.index(end) + 1 if (end := long[0].tokens[5]) in text.tokens else 12 for text in long]
    assert min(lengths) < 12
    logs = torch.tensor([math.log(12 / n) for n in lengths]).double()
    for base, other in ((model, short), (short, model)):
        found = LengthChange(PROMPTS, 12, base=base, tokenizer=tokenizer).measure(other, tokenizer)
        assert found.value == pytest.approx(logs.mean().exp().item())
        assert found.stderr == pytest.approx(found.value * logs.std().item() / 2)
        assert found.n == 4
    assert LengthChange(PROMPTS, 12).against(short, tokenizer).measure(short, tokenizer).value == 1


@pytest.mark.parametrize("kind", [Divergence, LengthChange])
def test_what_compares_needs_a_base_and_a_search_gives_the_largest(net, kind) -> None:
    alone = kind(PROMPTS, 6)
    with pytest.raises(ValueError, match=f"{alone.name} has no base to compare with; give base and tokenizer"):
        alone(net.largest)
    with pytest.raises(ValueError, match="tokenizer is missing; give both, or neither"):
        kind(PROMPTS, base=net.largest.extract())
    told = kind(PROMPTS, 6, base=net.largest.extract(), tokenizer=net.tokenizer)
    asked = {"driver": "random", "evaluations": 3, "population": 3, "progress": False}
    left = search(net, [alone, Ended(PROMPTS, 6)], **asked)
    given = search(net, [told, Ended(PROMPTS, 6)], **asked)
    assert not left.frame["error"].any(), left.frame["error"].tolist()
    assert left.frame[alone.name].tolist() == pytest.approx(given.frame[alone.name].tolist(), abs=1e-4)
    assert left.reference[alone.name] == pytest.approx(1.0 if kind is LengthChange else 0.0, abs=1e-6)
    assert not alone.has_base


def test_a_chat_template_is_put_around_prompts_and_needed(net) -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        Ended(PROMPTS, chat=True).measure(tiny_llama(), tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}on {{ m.content }}{% endfor %}{% if add_generation_prompt %} the{% endif %}"
    )
    evaluator = Ended(PROMPTS, 4, chat=True)
    assert evaluator.prompts.asked(tokenizer)[0] == "on the cat the"
    evaluator.require_readable(tiny_llama(), tokenizer)
    with pytest.raises(ValueError, match="prompt 1 .* reads 16"):
        Ended(PROMPTS, 40).require_readable(tiny_llama(max_position_embeddings=16), tokenizer)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [("the cat", "prompts is a single text"), (["the cat"], "prompts holds 1"), (["the cat", " "], "prompt 2 is ' '")],
)
def test_prompts_that_say_nothing_are_refused(prompts, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Repetition(prompts)


def test_a_search_takes_them_as_objectives_and_constraints_and_writes_once(net) -> None:
    evaluators = [
        Repetition(PROMPTS, 6),
        Ended(PROMPTS, 6),
        Divergence(PROMPTS, 6, base=net.largest.extract(), tokenizer=net.tokenizer),
    ]
    assert all(isinstance(evaluator, Evaluator) for evaluator in evaluators)
    assert all(json.dumps(dict(evaluator.settings())) for evaluator in evaluators)
    found = search(
        net, evaluators, driver="random", evaluations=4, population=4, constraints=("ended >= 0",),
        objectives=("repetition", "divergence"), progress=False,
    )  # fmt: skip
    assert not found.frame["error"].any(), found.frame["error"].tolist()
    subnet = smallest(net)
    assert evaluators[0].prompts.written_by_subnetwork(subnet) is evaluators[1].prompts.written_by_subnetwork(subnet)
    assert isinstance(evaluators[0](subnet), Measurement)
