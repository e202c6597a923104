"""Answers found in half precision first are those of full precision, and fewer questions are asked twice."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators import MultipleChoiceAccuracy, Racing, Screening, depth_first, log_likelihoods
from tests.evaluators.multiple_choice.test_multiple_choice import questions
from tests.supernets import DECODERS, EVERY_DIMENSION, FAMILIES, random_adapters, supernetwork
from tests.tiny import tiny_llama, tiny_tokenizer


class Exact:
    """Scores in full precision, and which were asked for."""

    def __init__(self, scores: torch.Tensor) -> None:
        self.scores, self.asked = scores, []

    def __call__(self, positions) -> torch.Tensor:
        self.asked += positions
        return self.scores[list(positions)]


@settings(deadline=None)
@given(
    seed=st.integers(0, 999),
    count=st.integers(1, 200),
    error=st.floats(0, 3),
    bound=st.floats(1, 6),
)
def test_what_is_closest_is_asked_again_and_right(seed: int, count: int, error: float, bound: float) -> None:
    rng = np.random.default_rng(seed)
    scores = torch.tensor(rng.normal(0, 3, (count, 4)))
    scores[rng.random(count) < 0.5, 3] = -math.inf
    screened = scores + error * torch.tensor(rng.choice([-1.0, 1.0], (count, 4)))
    exact = Exact(scores)
    answers = Screening(margin=bound).answers(screened, exact)
    assert len(set(exact.asked)) == len(exact.asked)
    wrong = [i for i in range(count) if answers[i] != int(scores[i].argmax())]
    gaps = screened.topk(2, dim=1).values.diff(dim=1).abs().flatten()
    assert not set(wrong) & set(exact.asked)
    # Nothing is left that is as close as what was asked again.
    if exact.asked and len(exact.asked) < count:
        left = [i for i in range(count) if i not in exact.asked]
        assert gaps[exact.asked].max() <= gaps[left].min()


def test_clear_answers_are_asked_once() -> None:
    scores = torch.tensor([[0.0, 9.0], [9.0, 0.0]]).repeat(50, 1)
    scores[7] = torch.tensor([1.0, 1.001])
    exact = Exact(scores)
    answers = Screening().answers(scores + torch.tensor([[0.01, 0.0]]), exact)
    assert np.array_equal(answers, scores.argmax(1).numpy())
    assert 7 in exact.asked
    assert len(exact.asked) == 6  # of 100 questions a sixteenth


def test_errors_as_large_as_the_gaps_ask_everything_again() -> None:
    rng = np.random.default_rng(0)
    scores = torch.tensor(rng.normal(size=(60, 3)))
    exact = Exact(scores)
    answers = Screening().answers(torch.tensor(rng.normal(size=(60, 3))), exact)
    assert np.array_equal(answers, scores.argmax(1).numpy())
    assert len(exact.asked) == 60


def test_tie_goes_to_the_first_option() -> None:
    scores = torch.zeros(5, 3)
    assert Screening().answers(scores, Exact(scores)).tolist() == [0] * 5


@pytest.mark.parametrize("family", DECODERS)
def test_real_model_answers_as_in_full_precision(family: str) -> None:
    model, tokenizer, asked = FAMILIES[family](), tiny_tokenizer(), questions(60)
    plain, screened = MultipleChoiceAccuracy(asked), MultipleChoiceAccuracy(asked, screening=Screening())
    found, expected = (accuracy.answering(model, tokenizer) for accuracy in (screened, plain))
    for part in (range(40), range(40, 60)):
        found.ask(part)
        expected.ask(part)
    found.settle()
    assert np.array_equal(found.right, expected.right)


def test_half_precision_is_what_screens() -> None:
    model, seen = tiny_llama(), []
    model.model.layers[0].mlp.down_proj.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    MultipleChoiceAccuracy(questions(40), screening=Screening()).measure(model, tiny_tokenizer())
    assert seen[0] == torch.bfloat16
    assert seen[-1] == torch.float32


def test_generation_that_shares_layers_races_and_is_screened_scores_the_same() -> None:
    supernet = random_adapters(supernetwork(tiny_llama(num_hidden_layers=5), EVERY_DIMENSION))
    space = supernet.space
    subnets = [supernet.subnetwork(space.configuration(g)) for g in space.sample(np.random.default_rng(0), 6)]
    subnets = [subnets[i] for i in depth_first(subnets)]
    asked = questions(60)
    screened = MultipleChoiceAccuracy(asked, racing=Racing(first=16), screening=Screening())
    session = screened.session(subnets)
    plain = MultipleChoiceAccuracy(asked)
    for position, subnet in enumerate(subnets):
        assert session.measure(position).value == plain(subnet).value


def test_race_is_lost_by_settled_answers_alone() -> None:
    subnet = supernetwork(tiny_llama(), EVERY_DIMENSION).largest
    given = questions(60)
    liked = log_likelihoods(subnet.model, subnet.tokenizer, given).argmax(1).tolist()
    asked = [replace(question, answer=answer) for question, answer in zip(given, liked, strict=True)]  # all are right
    racing = Racing(first=30, confidence=0.9)
    exact = MultipleChoiceAccuracy(asked, racing=racing).measure(subnet.model, subnet.tokenizer)
    assert exact.value == 1

    def wrong(module, args, output) -> torch.Tensor:
        return -output if torch.is_autocast_enabled("cpu") else output

    # Half precision that answers nearly all wrongly, and is found out: every question is close, so all are asked again.
    subnet.model.model.norm.register_forward_hook(wrong)
    session = MultipleChoiceAccuracy(asked, racing=racing, screening=Screening(margin=1000)).session([subnet])
    measured = session.measure(0, rival=exact)
    assert measured == exact


def test_settings_say_how_it_is_screened() -> None:
    asked = questions()
    assert MultipleChoiceAccuracy(asked, screening=Screening()).settings() != MultipleChoiceAccuracy(asked).settings()


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="dtype is 'int8'; choose one of 'bfloat16', 'float16'"):
        Screening(dtype="int8")  # type: ignore[arg-type]
    for margin in (0.5, math.nan):
        with pytest.raises(ValueError, match="margin is"):
            Screening(margin=margin)
