"""Parameters, MACs, operators, cost models of the user's own, and evaluators of other packages."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from evaluators import Evaluator, Macs, Measurement, ParameterCount, cost_model, evaluator_names, load_evaluator
from evaluators.operators import Operator
from tests.supernets import supernetwork
from tests.tiny import tiny_llama, tiny_qwen3


def smallest(model=None):
    supernet = supernetwork(model or tiny_llama())
    return supernet.subnetwork(supernet.space.configuration(supernet.space.smallest))


@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen3])
def test_macs_are_half_the_flops_that_torch_counts(make) -> None:
    subnet = smallest(make(attn_implementation="eager"))
    model, ids = subnet.extract(), torch.randint(0, 200, (2, 12))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(ids, logits_to_keep=1)
    # The rotary embedding is an outer product of positions and frequencies; not an operator of the network.
    rotary = 2 * 2 * 4 * 12
    assert 2 * Macs(batch=2, tokens=12)(subnet).value == pytest.approx(counter.get_total_flops(), abs=2 * rotary)


def test_layer_weights_alone_are_what_the_lonas_paper_counts() -> None:
    subnet = smallest()
    value = Macs(tokens=256, layer_weights_only=True)(subnet).value
    assert value == 256 * 3 * (32 * (32 + 16 + 16 + 32) + 3 * 32 * 24)


def test_operator_bytes_follow_sizes_and_bits() -> None:
    op = Operator("layers.0.up", "weight", m=4, k=10, n=6, weight_bits=4, activation_bits=16)
    assert op.macs == 240
    assert op.weight_bytes == 30
    assert op.activation_bytes == 2 * (40 + 24)
    assert op.bytes == op.weight_bytes + op.activation_bytes


def test_parameter_count_is_the_subnetworks() -> None:
    subnet = smallest()
    assert ParameterCount()(subnet) == Measurement(sum(p.numel() for p in subnet.extract().parameters()))


def test_cost_model_is_an_evaluator_of_the_operators() -> None:
    @cost_model(unit="mJ", direction="minimize")
    def energy(subnet):
        return sum(op.macs * 2 for op in subnet.operators(batch=1, tokens=8))

    assert isinstance(energy, Evaluator)
    assert (energy.name, energy.unit, energy.direction) == ("energy", "mJ", "minimize")
    assert energy(smallest()).value == 2 * Macs(tokens=8)(smallest()).value


def test_settings_of_a_cost_model_follow_its_function_and_version() -> None:
    def model(joules: float, **arguments):
        @cost_model(unit="J", **arguments)
        def energy(subnet):
            return joules

        return energy.settings()

    assert model(1.0) == model(1.0)
    assert model(1.0) != model(2.0)
    assert model(1.0, version="a") == model(2.0, version="a") != model(1.0, version="b")


def test_bad_cost_models_are_refused() -> None:
    with pytest.raises(ValueError, match="direction.*'down'"):
        cost_model(direction="down")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="needs its arguments"):
        cost_model(lambda subnet: 1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="returned 'much'"):
        cost_model()(lambda subnet: "much")(smallest())  # type: ignore[arg-type,return-value]


def test_own_evaluators_are_found_by_name() -> None:
    assert {"accuracy", "latency", "macs", "parameters"} <= set(evaluator_names())
    assert load_evaluator("macs") is Macs
    with pytest.raises(ValueError, match="no evaluator is named 'joules'; installed are .*latency"):
        load_evaluator("joules")
