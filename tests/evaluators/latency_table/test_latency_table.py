"""The latency table: what it adds up, what it is calibrated on, and what it refuses; never how long anything took."""

import itertools
import json
import tomllib
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from evaluators import Evaluator, Latency, LatencyTable, LatencyTableError, LayerSizes
from evaluators.latency.timing import Timing
from evaluators.latency_table.block_costs import BlockKnots, UnknownSizeError, fit_costs
from evaluators.latency_table.calibration import even_genomes
from search_spaces import attention_heads, layer_skip, lora_rank, mlp_width
from tests.ordered import space_of
from tests.supernets import EVERY_DIMENSION, supernetwork
from tests.tiny import tiny_llama, tiny_qwen3

HEADS = BlockKnots("attention heads", (2, 4), can_be_skipped=True)
WIDTH = BlockKnots("MLP width", (10, 20, 40), can_be_skipped=False)


@dataclass(frozen=True)
class ByWeight(Latency):
    """A clock that runs as fast as a model is large: every parameter takes a second, and the machine slows down."""

    def time_models(self, models: list[PreTrainedModel]) -> list[Timing]:
        rounds = range(1, self.repeats + 1)
        return [Timing(tuple(slowness * float(model.num_parameters()) for slowness in rounds)) for model in models]


def decoder(heads: list[int], widths: list[int]) -> list[LayerSizes]:
    return [LayerSizes(h, h // 2, 8, w) for h, w in zip(heads, widths, strict=True)]


KNOTS = (BlockKnots("attention heads", (2, 4, 8), True), BlockKnots("MLP width", (10, 20, 40), True))


@st.composite
def decoders_that_add_up(draw: st.DrawFn) -> tuple[list[list[LayerSizes]], np.ndarray]:
    """Even decoders and random ones, four layers deep, and times of which each block adds its own."""
    heads, widths = ([0, *knots.sizes] for knots in KNOTS)
    even = [decoder([h] * 4, [40] * 4) for h in heads] + [decoder([8] * 4, [w] * 4) for w in widths]
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    random = [decoder(rng.choice(heads, 4).tolist(), rng.choice(widths, 4).tolist()) for _ in range(20)]
    every = [*even, decoder([0] * 4, [0] * 4), decoder([8, 0, 8, 0], [40, 0, 40, 0]), *random]
    of_heads, of_widths = ({0: 0.0} | dict(zip(s[1:], rng.uniform(0, 9, 3), strict=True)) for s in (heads, widths))
    rest = draw(st.sampled_from([1e-3, 1.0, 100.0]))
    times = [rest + sum(of_heads[one.heads] + of_widths[one.intermediate_size] for one in layers) for layers in every]
    return every, np.array(times)


def sampled(supernet, count: int, seed: int):
    genomes = supernet.space.sample(np.random.default_rng(seed), count)
    return [supernet.subnetwork(supernet.space.configuration(genome)) for genome in genomes]


def test_costs_that_add_up_are_found_and_interpolated() -> None:
    def cost(layers: list[LayerSizes]) -> float:
        return 7.0 + sum(3.0 * layer.heads + 0.5 * layer.intermediate_size - (layer.heads == 0) for layer in layers)

    rng = np.random.default_rng(0)
    seen = [decoder(rng.choice([0, 2, 4], 3).tolist(), rng.choice([10, 20, 40], 3).tolist()) for _ in range(30)]
    costs = fit_costs(seen, [cost(layers) for layers in seen], HEADS, WIDTH)
    assert costs.whole == pytest.approx(cost(decoder([4, 4, 4], [40, 40, 40])))
    assert costs.attention_costs == pytest.approx((-13.0, -6.0, 0.0))
    assert costs.mlp_costs == pytest.approx((0.0, -15.0, -10.0, 0.0))
    unseen = decoder([3, 0, 2], [15, 25, 40])
    assert costs.predict(unseen) == pytest.approx(cost(unseen))


@settings(max_examples=25)
@given(decoders_that_add_up())
def test_true_costs_of_blocks_that_add_up_are_recovered(seen) -> None:
    decoders, times = seen
    costs = fit_costs(decoders, times.tolist(), *KNOTS)
    for layers, time in zip(decoders, times, strict=True):
        assert costs.predict(layers) == pytest.approx(time, rel=1e-6, abs=1e-9)


@settings(max_examples=25)
@given(decoders_that_add_up(), st.integers(0, 1000), st.sampled_from([0.05, 0.5, 1.5]), st.booleans())
def test_no_decoder_is_predicted_below_nothing_however_noisy_the_times(seen, seed, noise, smallest) -> None:
    decoders, times = seen
    if not smallest:  # the time of what no block has is then extrapolated
        decoders, times = (
            decoders[1:4] + decoders[5:8] + decoders[10:],
            times[[1, 2, 3, 5, 6, 7, *range(10, len(times))]],
        )
    noisy = times * np.exp(np.random.default_rng(seed).normal(0, noise, len(times)))
    costs = fit_costs(decoders, noisy.tolist(), *KNOTS)
    every = itertools.product([0, *KNOTS[0].sizes], [0, *KNOTS[1].sizes])
    for one, other in itertools.product(list(every), repeat=2):
        layers = decoder([one[0], one[0], other[0], other[0]], [one[1], one[1], other[1], other[1]])
        assert costs.predict(layers) >= -1e-9 * times.max()


def test_decoders_of_different_depths_are_refused() -> None:
    with pytest.raises(ValueError, match="have 1 and 2 layers; give equally deep ones"):
        fit_costs([decoder([4], [40]), decoder([4, 2], [40, 10])], [1.0, 2.0], HEADS, WIDTH)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (decoder([4, 6], [40, 40]), "layers.1 has attention heads 6, but costs are known from 2 to 4"),
        (decoder([4, 1], [40, 40]), "layers.1 has attention heads 1"),
        (decoder([4, 4], [5, 40]), "layers.0 has MLP width 5, but costs are known from 10 to 40"),
        (decoder([4, 4], [0, 40]), "layers.0 is left out"),
    ],
)
def test_sizes_that_were_not_measured_are_refused(layers, message: str) -> None:
    costs = fit_costs([decoder([4, 2], [40, 10])], [1.0], HEADS, WIDTH)
    with pytest.raises(UnknownSizeError, match=message):
        costs.predict(layers)


@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen3])
@pytest.mark.parametrize(
    "space",
    [EVERY_DIMENSION, mlp_width([c / 48 for c in range(8, 49, 4)]) + attention_heads((1.0, 0.5)), lora_rank((4, 2))],
)
def test_table_predicts_unseen_subnetworks_exactly_where_blocks_add_up(make, space) -> None:
    supernet = supernetwork(make(), space)
    table = LatencyTable.calibrate(supernet, ByWeight(repeats=3), levels=3)
    milliseconds = 2 * 1e3  # a parameter, in the middle of three rounds
    smallest = supernet.subnetwork(supernet.space.configuration(supernet.space.smallest))
    for subnet in [*sampled(supernet, 20, seed=1), smallest]:
        assert table(subnet).value == pytest.approx(milliseconds * subnet.extract().num_parameters(), rel=1e-9)


def test_even_genomes_vary_one_kind_of_block_at_a_time() -> None:
    supernet = supernetwork(tiny_llama(), mlp_width((1.0, 0.75, 0.5)) + attention_heads((1.0, 0.5)) + layer_skip())
    sizes = [
        [(layer.heads, layer.intermediate_size) for layer in supernet.subnetwork(c).layer_sizes]
        for c in map(supernet.space.configuration, even_genomes(supernet.space, levels=5))
    ]
    even = {(4, 48), (4, 36), (4, 24), (2, 48), (0, 48), (4, 0), (0, 0)}
    assert sizes[0] == [(4, 48)] * 3
    assert {layers[0] for layers in sizes if len(set(layers)) == 1} == even
    assert [layers for layers in sizes if len(set(layers)) > 1] == [[(4, 48), (0, 0), (4, 48)]]


def test_choices_of_many_values_are_calibrated_at_a_few_levels() -> None:
    levels = {tuple(genome.tolist()) for genome in even_genomes(space_of(genes=2, values=9), levels=3)}
    assert levels == {(8, 8), (4, 4), (0, 0)}


def test_table_is_a_computed_evaluator_that_survives_its_file(tmp_path) -> None:
    supernet = supernetwork(tiny_llama(), EVERY_DIMENSION)
    calls = []
    table = LatencyTable.calibrate(
        supernet,
        Latency(tokens=8, repeats=2, warmup=0, phase="decode", threads=1),
        samples=3,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert isinstance(table, Evaluator)
    assert (table.name, table.unit, table.direction, table.computed) == ("latency", "ms", "minimize", True)
    assert calls == [(done, calls[-1][1]) for done in itertools.chain(range(4, calls[-1][1], 4), [calls[-1][1]])]
    loaded = LatencyTable.load(table.save(tmp_path / "table.json"))
    assert loaded == table
    assert loaded.settings() == table.settings()
    assert loaded.settings()["threads"] == 1
    for subnet in sampled(supernet, 5, seed=2):
        assert loaded(subnet) == table(subnet)


def test_entry_point_loads_a_table() -> None:
    group = "nas_engine.evaluators"
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert (
        EntryPoint("latency_table", project["entry-points"][group]["latency_table"], group).load() == LatencyTable.load
    )


def test_validation_compares_predictions_with_times() -> None:
    supernet = supernetwork(tiny_llama(), mlp_width((1.0, 0.5)))
    table = LatencyTable.calibrate(supernet, ByWeight(tokens=8, repeats=3), samples=2)
    subnets = sampled(supernet, 3, seed=3)
    frame = table.validate(subnets, supernet.largest, repeats=2, warmup=0)
    assert frame["predicted"].tolist() == [table.predict(subnet) for subnet in subnets]
    assert (frame["measured"] > 0).all()
    assert frame["error"].tolist() == pytest.approx((frame["predicted"] / frame["measured"] - 1).tolist())
    weights = [subnet.extract().num_parameters() for subnet in [supernet.largest, *subnets]]
    assert frame["predicted_ratio"].tolist() == pytest.approx([weight / weights[0] for weight in weights[1:]])
    assert "measured_ratio" not in table.validate(subnets[:1], repeats=2, warmup=0)


def test_table_of_another_space_or_model_is_refused() -> None:
    wide, narrow = mlp_width((1.0, 0.75)), mlp_width((1.0, 0.5))
    table = LatencyTable.calibrate(supernetwork(tiny_llama(), wide), ByWeight(), samples=0)
    smaller = sampled(supernetwork(tiny_llama(), narrow), 5, seed=0)
    with pytest.raises(LatencyTableError, match="another space: layers.*MLP width 24.*36 to 48.*Calibrate"):
        [table(subnet) for subnet in smaller]
    for other, what in ((tiny_qwen3(), "type llama"), (tiny_llama(num_hidden_layers=2), "layers 3.*this one has 2")):
        with pytest.raises(LatencyTableError, match=f"made for a model with {what}"):
            table(supernetwork(other, wide).largest)


def test_table_of_another_device_is_refused_unless_that_is_meant(tmp_path) -> None:
    supernet = supernetwork(tiny_llama(), mlp_width((1.0, 0.5)))
    table = LatencyTable.calibrate(supernet, ByWeight(), samples=0)
    path = tmp_path / "phone.json"
    path.write_text(json.dumps(table.to_json() | {"device": "a telephone"}))
    with pytest.raises(LatencyTableError, match="made on a telephone.*any_device=True"):
        LatencyTable.load(path)
    loaded = LatencyTable.load(path, any_device=True)
    assert loaded(supernet.largest) == table(supernet.largest)
    with pytest.raises(LatencyTableError, match="telephone"):
        loaded.validate([supernet.largest])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "device": 3}'])
def test_file_that_is_no_table_is_refused(content: str, tmp_path) -> None:
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(LatencyTableError, match="table.json is no latency table"):
        LatencyTable.load(path)
    with pytest.raises(LatencyTableError, match="missing.json is no latency table.*No such file"):
        LatencyTable.load(tmp_path / "missing.json")


@pytest.mark.parametrize(("arguments", "message"), [({"levels": 1}, "levels"), ({"samples": -1}, "samples")])
def test_bad_calibration_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatencyTable.calibrate(supernetwork(tiny_llama()), **arguments)
