"""Parameters, MACs, operators, cost models of the user's own, and evaluators by name."""

import importlib
import inspect
import linecache
import tomllib
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from evaluators import Evaluator, Macs, Measurement, ParameterCount, cost_model, evaluator_names, load_evaluator
from evaluators.operators.operator import Operator
from tests.supernets import EVERY_DIMENSION, FAMILIES, supernetwork
from tests.tiny import tiny_llama


def smallest(model=None):
    supernet = supernetwork(model or tiny_llama())
    return supernet.subnetwork(supernet.space.configuration(supernet.space.smallest))


def counted_macs(model, ids: torch.Tensor) -> float:
    """Half the operations that torch counts, without those of modules that no operator stands for."""
    takes = inspect.signature(type(model).forward).parameters
    arguments = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(ids, **arguments)
    # Rotary embeddings, where they are products of positions and frequencies, and BERT's pooler between its layers and
    # its classifier are the same in every sub-network.
    apart = [
        sum(counts.values())
        for module, counts in counter.get_flop_counts().items()
        if module.endswith(("rotary_emb", "pooler"))
    ]
    return (counter.get_total_flops() - sum(apart)) / 2


@pytest.mark.parametrize("family", FAMILIES)
def test_macs_are_what_torch_counts_on_the_extracted_model(family: str) -> None:
    supernet = supernetwork(FAMILIES[family](attn_implementation="eager"), EVERY_DIMENSION)
    generator = np.random.default_rng(7)
    seen = set()
    for genome in supernet.space.sample(generator, 6):
        subnet = supernet.subnetwork(supernet.space.configuration(genome))
        batch, tokens = (int(size) for size in generator.integers(1, 20, 2))
        macs = Macs(batch, tokens)(subnet).value
        assert macs == counted_macs(subnet.extract(), torch.randint(2, 200, (batch, tokens)))
        seen.add(macs)
    assert len(seen) == 6


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


_CELL = """
import functools
from evaluators import cost_model

class Scale:
    factor = {factor}
    def __init__(self, offset):
        self.offset = offset
    def __call__(self, value):
        return self.factor * value + self.offset

def scaled(function):
    @functools.wraps(function)
    def inner(subnet):
        return {body}
    return inner

scale, half = Scale({offset}), functools.partial(pow, {power})

@cost_model(unit="mJ")
@scaled
def energy(subnet):
    return scale(subnet.parameter_count()) + half(2)
"""


def in_a_cell(number: int, **changed) -> str:
    """What tells apart a cost model that was typed into a notebook."""
    given = {"factor": 2.0, "offset": 1.0, "body": "function(subnet)", "power": 3} | changed
    source, name = _CELL.format(**given), f"<cell {number}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    space = {"__name__": "__main__"}
    exec(compile(source, name, "exec"), space)
    return space["energy"].settings()["function"]


def test_edited_decorator_class_object_or_partial_is_another_cost_model() -> None:
    edits = ({"body": "function(subnet) + 7"}, {"factor": 3.0}, {"offset": 2.0}, {"power": 4})
    prints = [in_a_cell(0), *(in_a_cell(i, **edit) for i, edit in enumerate(edits, start=1))]
    assert len(set(prints)) == len(prints)
    assert in_a_cell(9) == prints[0]


def test_bad_cost_models_are_refused() -> None:
    with pytest.raises(ValueError, match="direction.*'down'"):
        cost_model(direction="down")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="needs its arguments"):
        cost_model(lambda subnet: 1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="returned 'much'"):
        cost_model()(lambda subnet: "much")(smallest())  # type: ignore[arg-type,return-value]


def test_every_entry_point_of_ours_is_an_evaluator_of_that_name() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    for name, value in project["entry-points"]["nas_engine.evaluators"].items():
        module, _, attribute = value.partition(":")
        evaluator = attrgetter(attribute)(importlib.import_module(module))
        if name not in ("harness", "latency_table"):  # what a task names and directs, and what a file describes
            assert inspect.signature(evaluator).parameters["name"].default == name
            assert evaluator.direction in ("minimize", "maximize")


def test_own_evaluators_are_found_by_name() -> None:
    assert {"accuracy", "latency", "macs", "parameters"} <= set(evaluator_names())
    assert load_evaluator("macs") is Macs
    with pytest.raises(ValueError, match="no evaluator is named 'joules'; installed are .*latency"):
        load_evaluator("joules")
