"""Evaluators and drivers of other people's, refused before any work where they do not say what a search relies on."""

from typing import ClassVar

import pytest

from evaluators import Evaluator, EvaluatorDefaults, Measurement, ParameterCount
from nas_engine import search
from nas_engine.drivers.random_driver import RandomDriver
from nas_engine.errors import SearchError
from tests.ordered import Cost, Ordered, Quality, space_of


class Silent:
    """Does not say whether it is computed or the like, and counts how often it is called."""

    name, direction, unit = "silent", "minimize", ""
    calls = 0

    def settings(self) -> dict:
        return {}

    def __call__(self, subnet) -> Measurement:
        Silent.calls += 1
        return Measurement(float(sum(subnet.configuration.values())))


class Answering(EvaluatorDefaults, Silent):
    """The same with the defaults."""


class Vague(Answering):
    """Says something other than yes or no."""

    alone = "sometimes"


class Nameless(EvaluatorDefaults):
    """Has neither a unit nor settings."""

    name, direction = "nameless", "minimize"

    def __call__(self, subnet) -> Measurement:
        return Measurement(0.0)


def run(evaluator, **changed):
    arguments = {"driver": "random", "evaluations": 4, "population": 4, "progress": False} | changed
    return search(Ordered(space_of()), [Quality(), evaluator], **arguments)


@pytest.mark.parametrize(
    ("evaluator", "message"),
    [
        (Silent(), "Silent does not say whether it is computed, alone, rewards_zeros: let the class inherit from"),
        (Vague(), "alone of the evaluator Vague is 'sometimes'; it must be True or False"),
        (Nameless(), "Nameless has no unit and no settings"),
        (ParameterCount, "ParameterCount is a class; give an evaluator made of it"),
        ("latency", "str cannot be called, so it is no evaluator"),
    ],
)
def test_an_evaluator_that_lacks_something_is_refused_before_any_work(tmp_path, evaluator, message: str) -> None:
    before = Silent.calls
    with pytest.raises(SearchError, match=message):
        run(evaluator, storage=tmp_path / "run")
    assert Silent.calls == before
    assert not (tmp_path / "run").exists()


def test_an_evaluator_inherits_that_it_is_measured_beside_others() -> None:
    evaluator = Answering()
    assert isinstance(evaluator, Evaluator)
    assert (evaluator.computed, evaluator.alone, evaluator.rewards_zeros) == (False, False, False)
    assert len(run(evaluator)) == 4


class Undecided:
    """A driver that does not say how it may be asked."""

    def __init__(self, problem) -> None:
        self.driver = RandomDriver(problem)

    def ask(self):
        return self.driver.ask()

    def tell(self, *told) -> None:
        self.driver.tell(*told)


class Decided(Undecided):
    asynchronous: ClassVar[bool] = False


class Mute(Decided):
    tell = None


@pytest.mark.parametrize(
    ("driver", "message"),
    [(Undecided, "Undecided does not say whether it is asynchronous"), (Mute, "Mute has no tell")],
)
def test_a_driver_that_lacks_something_is_refused_before_any_work(driver, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        run(Cost(), driver=driver)
    assert run(Cost(), driver=Decided).frame.equals(run(Cost()).frame)
