"""A user's own function of a model and its tokenizer, and its settings beside those of a cost model."""

import pytest
import torch

from evaluators import Evaluator, Measurement, cost_model, model_metric
from tests.supernets import random_adapters, supernetwork
from tests.tiny import tiny_llama, tiny_tokenizer


def smallest():
    supernet = random_adapters(supernetwork(tiny_llama()))
    return supernet, supernet.subnetwork(supernet.space.configuration(supernet.space.smallest))


@pytest.mark.parametrize("extracted", [False, True])
def test_function_sees_the_subnetworks_model_and_tokenizer(extracted: bool) -> None:
    supernet, subnet = smallest()
    seen = []

    @model_metric(unit="nats", direction="minimize", extracted=extracted)
    @torch.inference_mode()
    def surprise(model, tokenizer):
        seen.append(model)
        ids = torch.tensor([tokenizer("the cat sat")["input_ids"]])
        return Measurement(model(ids, labels=ids).loss.item(), stderr=0.5, n=ids.numel())

    ids = torch.tensor([tiny_tokenizer()("the cat sat")["input_ids"]])
    expected = subnet.extract()(ids, labels=ids).loss.item()
    measured = surprise(subnet)
    assert measured == Measurement(pytest.approx(expected, rel=1e-4), 0.5, ids.numel())
    assert (seen[0] is supernet.model) != extracted
    assert isinstance(surprise, Evaluator)
    assert (surprise.name, surprise.unit, surprise.direction) == ("surprise", "nats", "minimize")
    assert not surprise.computed


def test_settings_follow_the_function_the_version_and_the_model_it_gets() -> None:
    def made(factor: float, decorator=model_metric, **arguments):
        @decorator(**arguments)
        def score(*_):
            return factor

        return score.settings()

    assert made(1.0) == made(1.0)
    assert made(1.0) != made(2.0)
    assert made(1.0) != made(1.0, extracted=True)
    assert made(1.0, version="a") == made(2.0, version="a") != made(1.0, version="b")
    assert made(1.0, cost_model)["function"] == made(1.0)["function"]


def test_bad_metrics_are_refused() -> None:
    _, subnet = smallest()
    with pytest.raises(ValueError, match="direction.*'up'"):
        model_metric(direction="up")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="model_metric needs its arguments"):
        model_metric(lambda model, tokenizer: 1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the model metric '<lambda>' returned 'good'"):
        model_metric()(lambda model, tokenizer: "good")(subnet)  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="give model_metric both name and version"):
        model_metric()(max)  # type: ignore[arg-type]
