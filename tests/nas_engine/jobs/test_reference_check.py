"""A reference that learned nothing is told from one that did: by chance where that is known, else by the untrained."""

from dataclasses import replace

import pytest

from evaluators import Labelled, Measurement, MultipleChoiceAccuracy, Perplexity, Question
from nas_engine import load_data
from nas_engine.data.chance import chance_of
from nas_engine.errors import NasEngineWarning, SearchError
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.jobs.reference_check import checked_reference
from tests.tiny import tiny_tokenizer

ACCURACY = MultipleChoiceAccuracy([Question("1 + 1?", ("1", "2"), 1)] * 2)
PERPLEXITY = Perplexity(["a b", "c d"])


def labelled(*labels: int) -> list[Labelled]:
    return [Labelled(f"text {i}", label) for i, label in enumerate(labels)]


def test_chance_follows_from_options_and_classes() -> None:
    two, four = Question("?", ("a", "b"), 0), Question("?", ("a", "b", "c", "d"), 3)
    assert chance_of("accuracy", [two, four]) == pytest.approx(0.375)
    assert chance_of("accuracy", labelled(0, 2, 2, 1)) == 0.5
    assert chance_of("f1", labelled(0, 1, 1, 1)) == pytest.approx(6 / 7)  # precision 3/4, recall 1
    assert chance_of("matthews", labelled(0, 1)) == chance_of("exact_match", [two]) == 0.0
    assert chance_of("perplexity", [two]) is None


@pytest.fixture(scope="module")
def data():
    return load_data("family", tiny_tokenizer(), train=20, validation=40, selection=8, test=8, seed=0)


@pytest.mark.parametrize(("above", "warns"), [(-0.3, True), (0.09, True), (0.11, False)])
def test_accuracy_within_two_standard_errors_of_guessing_is_warned_of(data, above: float, warns: bool) -> None:
    chance = chance_of("accuracy", data.validation)
    found = Measurement(chance + above, 0.05, 40)
    settings = JobSettings()
    untrained = Measurement(1.0, 0.0, 40)  # says nothing where chance is known
    if not warns:
        assert checked_reference(ACCURACY, untrained, found, data, settings) == []
        return
    with pytest.warns(NasEngineWarning, match="has learned nothing that shows: its accuracy on 40 validation"):
        (said,) = checked_reference(ACCURACY, untrained, found, data, settings)
    assert f"without a look at the questions it would be {chance:.3g}" in said
    with pytest.raises(SearchError, match="as stop_unlearned says"):
        checked_reference(ACCURACY, untrained, found, data, replace(settings, stop_unlearned=True))


@pytest.mark.parametrize(("after", "warns"), [(9.9, False), (10.0, True), (12.0, True)])
def test_perplexity_that_training_did_not_lower_is_warned_of(data, after: float, warns: bool) -> None:
    texts, before, now = replace(data, metric="perplexity"), Measurement(10.0, 0.5, 40), Measurement(after, 0.5, 40)
    if warns:
        with pytest.warns(NasEngineWarning, match="that of the model before training 10"):
            assert checked_reference(PERPLEXITY, before, now, texts, JobSettings())
    else:
        assert checked_reference(PERPLEXITY, before, now, texts, JobSettings()) == []
    # Where nothing is trained there is nothing to be learned.
    assert checked_reference(PERPLEXITY, before, now, texts, JobSettings(lora_steps=0)) == []
