"""Finalists of a front: healed by successive halving, compared on other questions against the reference."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from evaluators import Latency, Measurement, MultipleChoiceAccuracy
from nas_engine import SuperNetwork, Teacher, search, train
from nas_engine.data.made import chain_sum
from nas_engine.jobs.finalists import FinalistSettings, choose, flips, rungs, table
from nas_engine.training.settings import HealingSettings
from search_spaces import lora_rank, mlp_width
from tests.tiny import tiny_llama, tiny_tokenizer

QUESTIONS = chain_sum(160, seed=0)
HEALING = HealingSettings(steps=8, batch_size=4, learning_rate=1e-2, fit_tokens=4096)


@pytest.fixture(scope="module")
def searched():
    space = lora_rank((4,)) + mlp_width((1.0, 0.75, 0.5), multiple_of=8)
    supernet = SuperNetwork.from_pretrained(tiny_llama(), space, tiny_tokenizer())
    train(supernet, QUESTIONS[:100], steps=3, batch_size=4, strategy="largest", progress=False)
    teacher = Teacher.of(supernet)
    train(supernet, QUESTIONS[:100], steps=3, batch_size=4, teacher=teacher, progress=False)
    evaluators = [MultipleChoiceAccuracy(QUESTIONS[100:130]), Latency(tokens=8, repeats=2, warmup=1)]
    return (
        search(supernet, evaluators, driver="random", evaluations=9, population=4, seed=0, progress=False),
        supernet,
        teacher,
    )


def finalists(
    searched, reference: float, tolerance: float, folder=None, healing: HealingSettings | None = HEALING, count: int = 4
):
    result, supernet, teacher = searched
    selection = MultipleChoiceAccuracy(QUESTIONS[130:])
    settings = FinalistSettings(latency=Latency(tokens=8, repeats=3), healing=healing, tolerance=tolerance, count=count)
    return choose(
        result,
        supernet.largest,
        Measurement(reference, 0.05, 30),
        selection,
        QUESTIONS[:100],
        teacher,
        settings,
        folder,
        progress=False,
    )


def test_rungs_end_with_all_steps_and_there_are_none_before_where_nobody_is_dropped() -> None:
    assert rungs(48, 3) == [12, 24, 48]
    assert rungs(1, 3) == [1]
    assert rungs(48, 2) == [48]
    assert rungs(0, 3) == []


def test_two_are_healed_to_the_end_and_the_fastest_that_keeps_the_bound_comes_first(searched) -> None:
    found = finalists(searched, reference=0.0, tolerance=0.0)
    assert sorted(f.steps for f in found[:2]) == [8] * min(2, len(found))
    assert found[0].healed is not None
    assert len(found[0].healed.losses) == 8
    assert all(f.steps < 8 for f in found[2:])
    assert [f.speedup for f in found[:2]] == sorted((f.speedup for f in found[:2]), reverse=True)
    assert len({f.row.name for f in found}) == len(found)


def test_where_none_keeps_the_bound_the_most_accurate_comes_first(searched) -> None:
    found = finalists(searched, reference=2.0, tolerance=0.0)
    best = [f.deployed_score.value for f in found[:2]]
    assert best == sorted(best, reverse=True)


def test_what_was_judged_is_what_is_handed_out(searched) -> None:
    best = finalists(searched, reference=0.0, tolerance=0.0)[0]
    again = MultipleChoiceAccuracy(QUESTIONS[130:]).measure(best.healed.extract(), best.healed.tokenizer)
    assert again.value == best.score.value


def test_what_healing_makes_worse_leaves_as_it_was(searched) -> None:
    ruinous = replace(HEALING, learning_rate=3.0)
    found = finalists(searched, reference=2.0, tolerance=0.0, healing=ruinous)
    worse = [f.score.value < f.unhealed.value for f in found]
    assert any(worse)
    for finalist, is_worse in zip(found, worse, strict=True):
        assert finalist.better == (not is_worse)
        assert finalist.deployed_score.value == max(finalist.score.value, finalist.unhealed.value)
        assert finalist.deployed is (finalist.subnet if is_worse else finalist.healed)
        assert finalist.deployed_steps == (0 if is_worse else finalist.steps)
    told = table(found)
    assert told["leaves"].tolist() == ["unhealed" if is_worse else "healed" for is_worse in worse]
    assert told["accuracy"].tolist() == [f.score.value for f in found]  # what healing gave, all the same


def test_without_healing_finalists_are_as_the_supernetwork_left_them(searched) -> None:
    found = finalists(searched, reference=0.0, tolerance=0.0, healing=None, count=2)
    assert all(f.healed is None and f.score == f.unhealed and f.steps == 0 for f in found)
    assert flips(found) == (0, len(found) * (len(found) - 1) // 2)


def test_started_again_nothing_is_judged_or_healed_twice(searched, tmp_path) -> None:
    first = finalists(searched, reference=0.0, tolerance=0.0, folder=tmp_path)
    known = json.loads((tmp_path / "finalists.json").read_text())
    again = finalists(searched, reference=0.0, tolerance=0.0, folder=tmp_path)
    assert json.loads((tmp_path / "finalists.json").read_text()) == known
    pd.testing.assert_frame_equal(table(again), table(first))
