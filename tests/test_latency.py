"""Latency: what is timed and in which order; never how long it took."""

import pytest
import torch
from transformers import PreTrainedModel

from evaluators import Latency, compare_latency
from evaluators.timing import Timing, median_stderr, take_turns
from tests.supernets import logits, random_adapters, supernetwork
from tests.tiny import tiny_llama


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_latency_times_the_extracted_model_on_the_workload_alone(phase: str, monkeypatch) -> None:
    supernet = random_adapters(supernetwork(tiny_llama()))
    subnet = supernet.subnetwork(supernet.space.configuration(supernet.space.smallest))
    seen = []
    forward = type(supernet.model).forward

    def listening(self: PreTrainedModel, input_ids: torch.Tensor, **kwargs):
        out = forward(self, input_ids, **kwargs)
        past = out.past_key_values.get_seq_length() - input_ids.shape[1]
        seen.append((self is supernet.model, tuple(input_ids.shape), past, tuple(out.logits.shape[:2])))
        return out

    monkeypatch.setattr(type(supernet.model), "forward", listening)
    measured = Latency(batch=2, tokens=9, phase=phase, repeats=4, warmup=1)(subnet)
    expected = (False, (2, 9), 0, (2, 1)) if phase == "prefill" else (False, (2, 1), 9, (2, 1))
    assert seen.count(expected) == 5
    assert measured.value > 0
    assert measured.n == 4


def test_measuring_latency_leaves_the_supernetwork_as_it_was() -> None:
    supernet = random_adapters(supernetwork(tiny_llama()))
    before = logits(supernet.largest.model)
    Latency(tokens=8, repeats=2)(supernet.subnetwork(supernet.space.configuration(supernet.space.smallest)))
    assert torch.equal(logits(supernet.largest.model), before)


def test_models_take_turns_and_a_model_is_as_fast_as_itself() -> None:
    comparison = compare_latency([tiny_llama(), tiny_llama()], tokens=8, repeats=5)
    assert comparison.speedups[0] == 1.0
    assert len(comparison.medians) == len(comparison.stderrs) == 2
    order, clock = [], iter(range(1000))

    def step(name: str):
        return lambda: lambda: order.append(name)

    take_turns([step("a"), step("b")], repeats=3, warmup=1, clock=lambda: float(next(clock)))
    assert sorted(order[:2]) == sorted(order[2:4]) == ["a", "b"]
    assert len(order) == 8


def test_median_and_its_error() -> None:
    timing = Timing((1.0, 2.0, 3.0, 4.0, 100.0))
    assert timing.median == 3.0
    assert timing.quartiles == (2.0, 4.0)
    assert median_stderr((1.0, 1.0, 1.0)) == 0.0
    normal = torch.distributions.Normal(0, 1).icdf(torch.linspace(0.0005, 0.9995, 1000)).tolist()
    assert median_stderr(normal) == pytest.approx(1.2533 / 1000**0.5, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": 0}, "batch"),
        ({"tokens": 0}, "tokens"),
        ({"repeats": 1}, "repeats"),
        ({"phase": "both"}, "phase.*prefill"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_bad_workload_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Latency(**arguments)
