"""Latency: what is timed and in which order; never how long it took."""

import json
import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from evaluators import BusyError, Latency, LatencyReport, Workload, compare_latency, computing
from evaluators.latency.timing import Timing, median_stderr, take_turns
from evaluators.latency.workload import static_decode
from tests.supernets import EVERY_DIMENSION, logits, random_adapters, supernetwork
from tests.tiny import tiny_gemma3, tiny_llama, tiny_mistral


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
        ({"threads": 0}, "threads"),
        ({"dtype": "int8"}, "dtype is 'int8'.*bfloat16"),
        ({"dtype": "float99"}, "float99"),
        ({"cuda_graphs": True}, "graphs need a CUDA device"),
    ],
)
def test_bad_workload_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Latency(**arguments)


def test_a_reference_takes_turns_and_the_value_is_the_ratio_to_it(monkeypatch) -> None:
    supernet = random_adapters(supernetwork(tiny_llama()))
    subnet = supernet.subnetwork(supernet.space.configuration(supernet.space.smallest))
    timed = []
    forward = type(supernet.model).forward

    def listening(self: PreTrainedModel, *args, **kwargs):
        timed.append(self)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(supernet.model), "forward", listening)
    latency = Latency(tokens=8, repeats=3, warmup=1, reference=supernet.largest)
    measured = latency(subnet)
    assert [model.config.intermediate_size for model in timed] == [48, 24] * 4
    assert (latency.unit, Latency().unit) == ("× reference", "ms")
    assert measured.value > 0
    assert measured.n == 3
    latency(subnet)
    assert len({id(model) for model in timed[::2]}) == 1  # the reference is extracted once


def test_report_cancels_drift_round_by_round() -> None:
    drift = (1.0, 2.0, 4.0, 8.0)
    report = LatencyReport(Timing(tuple(3e-3 * d for d in drift)), Timing(tuple(6e-3 * d for d in drift)))
    assert report.ratio == pytest.approx(0.5)
    assert report.ratio_stderr == pytest.approx(0.0)
    assert report.median_ms == pytest.approx(9.0)
    assert report.quartiles_ms == pytest.approx((5.25, 15.0))
    assert report.spread == pytest.approx(9.75 / 9.0)
    assert LatencyReport(report.timing).ratio is None


def test_settings_tell_what_changes_a_time() -> None:
    supernet = supernetwork(tiny_llama())
    smallest = supernet.subnetwork(supernet.space.configuration(supernet.space.smallest))
    variants = [
        {},
        {"threads": 3},
        {"dtype": "bfloat16"},
        {"phase": "decode"},
        {"reference": supernet.largest},
        {"reference": smallest},
    ]
    settings = [json.dumps(Latency(**arguments).settings()) for arguments in variants]
    assert len(set(settings)) == len(variants)
    extracted = Latency(reference=supernet.largest.extract())
    assert extracted.settings() == Latency(reference=supernet.largest).settings()


def test_models_are_timed_with_the_threads_and_dtype_that_were_asked_for(monkeypatch) -> None:
    supernet = supernetwork(tiny_llama())
    before, seen = torch.get_num_threads(), []
    forward = type(supernet.model).forward

    def listening(self: PreTrainedModel, *args, **kwargs):
        seen.append((torch.get_num_threads(), self.dtype, self.get_input_embeddings().weight.dtype))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(supernet.model), "forward", listening)
    Latency(tokens=8, repeats=2, warmup=0, threads=before + 1, dtype="bfloat16")(supernet.largest)
    assert seen == [(before + 1, torch.bfloat16, torch.bfloat16)] * 2
    assert torch.get_num_threads() == before
    assert {p.dtype for p in supernet.model.parameters()} == {torch.float32}


def test_a_reference_model_of_another_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="reference is of torch.float32.*cast"):
        Latency(dtype="bfloat16", reference=tiny_llama())


def test_nothing_is_timed_while_another_evaluation_computes() -> None:
    subnet = supernetwork(tiny_llama()).largest
    entered, leave = threading.Event(), threading.Event()

    def compute() -> None:
        with computing():
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=compute)
    thread.start()
    entered.wait(60)
    try:
        with pytest.raises(BusyError, match="wait_seconds"):
            Latency(tokens=8, repeats=2, wait_seconds=0)(subnet)
        with pytest.raises(BusyError):
            compare_latency([tiny_llama()], tokens=8, repeats=2, wait_seconds=0)
    finally:
        leave.set()
        thread.join()


class NoValueAsked(TorchDispatchMode):
    """Raises where the host asks the device for a value, or a size depends on one: no CUDA graph could hold that."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        if name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select"):
            raise AssertionError(f"{name} waits for the device")
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("make", [tiny_llama, tiny_gemma3, tiny_mistral])
def test_static_decoding_repeats_exactly_and_can_be_captured(make) -> None:
    supernet = random_adapters(supernetwork(make(), EVERY_DIMENSION))
    genome = supernet.space.largest
    genome[:: len(genome) // 4] = 0  # fewer heads, narrower, some blocks gone
    model = supernet.subnetwork(supernet.space.configuration(genome)).extract()
    ids = torch.arange(2, 20).view(2, 9)
    with torch.inference_mode():
        full = model(torch.cat([ids, ids[:, -1:]], dim=1)).logits[:, -1:]
        step = static_decode(model, ids)
        for _ in range(3):
            run = step()
            with NoValueAsked():
                logits_ = run().logits
            torch.testing.assert_close(logits_, full)


def test_a_workload_longer_than_the_model_reads_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens is 257.*256"):
        Workload(tokens=257).step(tiny_llama())
    with pytest.raises(ValueError, match="training"):
        Workload(tokens=8).step(tiny_llama().train())
