"""Races: what is dropped could not have entered the front, at the stated confidence, and says how far it came."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators import Measurement, MultipleChoiceAccuracy, ParameterCount, Racing
from evaluators.multiple_choice.racing import dropped, outcomes_of, packed_outcomes, verdict
from nas_engine.loop import search
from tests.evaluators.multiple_choice.test_multiple_choice import questions
from tests.supernets import random_adapters, supernetwork
from tests.tiny import tiny_llama


def measured(outcomes: np.ndarray) -> Measurement:
    n = len(outcomes)
    return Measurement(float(outcomes.mean()), float(outcomes.std(ddof=1)) / n**0.5, n, packed_outcomes(outcomes))


def race(ours: np.ndarray, rival: np.ndarray, racing: Racing) -> Measurement | None:
    """What a dropped sub-network is given; None where it stays to the end."""
    parts, asked = racing.parts(len(ours)), []
    for part in parts[:-1]:
        asked.extend(part)
        if verdict(ours[asked], measured(rival), np.array(asked), len(parts) - 1, racing.confidence):
            return dropped(ours[asked], measured(rival), np.array(asked))
    return None


@given(st.lists(st.booleans(), min_size=2, max_size=70))
def test_outcomes_survive_packing(outcomes: list[bool]) -> None:
    array = np.array(outcomes)
    assert np.array_equal(outcomes_of(measured(array)), array)


@given(st.integers(1, 600), st.integers(1, 64), st.integers(0, 5))
def test_parts_hold_every_question_once_and_double(count: int, first: int, seed: int) -> None:
    parts = Racing(first=first, seed=seed).parts(count)
    assert sorted(i for part in parts for i in part) == list(range(count))
    ends = np.cumsum([len(part) for part in parts])
    assert all(end == first * 2**i for i, end in enumerate(ends[:-1]))


def test_equally_good_ones_are_dropped_no_more_often_than_stated() -> None:
    rng, drops = np.random.default_rng(0), 0
    for seed in range(2000):
        rival = rng.random(256) < 0.6
        ours = rival.copy()
        # As many questions lost as won: exactly as accurate on all of them.
        lost, won = rng.choice(np.flatnonzero(rival), 40), rng.choice(np.flatnonzero(~rival), 40)
        ours[np.unique(lost)[:25]], ours[np.unique(won)[:25]] = False, True
        drops += race(ours, rival, Racing(confidence=0.9, seed=seed)) is not None
    assert drops / 2000 <= 0.1


def test_much_worse_ones_are_dropped_early() -> None:
    rng = np.random.default_rng(0)
    rival, ours = rng.random(512) < 0.65, rng.random(512) < 0.3
    verdict = race(ours, rival, Racing())
    assert verdict is not None
    assert verdict.n <= 128
    assert verdict.value < rival.mean()
    assert abs(verdict.value - ours.mean()) < 3 * verdict.stderr


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_whoever_is_dropped_because_nothing_can_change_it_would_have_lost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rival, ours = rng.random(40) < 0.9, rng.random(40) < 0.7
    never = Racing(confidence=1 - 1e-12, first=5, seed=seed)
    if race(ours, rival, never) is not None:
        assert ours.mean() < rival.mean()


@pytest.mark.parametrize(("arguments", "message"), [({"confidence": 1.0}, "confidence is 1"), ({"first": 0}, "first")])
def test_bad_racing_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Racing(**arguments)


def searched(racing: Racing | None, **arguments):
    supernet = random_adapters(supernetwork(tiny_llama()), seed=1)
    asked = MultipleChoiceAccuracy(questions(160))
    # The largest sub-network is right by definition, so that the others differ from it and from each other.
    answers = asked.scores(supernet.largest.model, supernet.tokenizer).argmax(1).tolist()
    right = [replace(q, answer=answer) for q, answer in zip(asked.questions, answers, strict=True)]
    accuracy = MultipleChoiceAccuracy(right, racing=racing)
    return search(
        supernet,
        [accuracy, ParameterCount()],
        driver="nsga2",
        evaluations=20,
        population=10,
        progress=False,
        **arguments,
    )


def test_search_that_races_drops_some_and_puts_none_of_them_on_the_front(tmp_path) -> None:
    racing = Racing(confidence=0.9, first=20)
    result = searched(racing, storage=tmp_path)
    asked = result.frame["accuracy_n"]
    assert (asked == 160).any()
    assert (asked < 160).any()
    assert (result.front["accuracy_n"] == 160).all()
    again = searched(racing, storage=tmp_path)
    assert again.frame.equals(result.frame)
    assert searched(racing).frame.equals(result.frame)
