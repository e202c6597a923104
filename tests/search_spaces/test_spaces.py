"""Spaces, genomes and configurations, with the papers' presets."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import (
    Choice,
    ConfigurationError,
    ModelShape,
    SearchSpace,
    SpaceError,
    attention_heads,
    layer_skip,
    lonas_space,
    lora_rank,
    mlp_width,
    shears_space,
    sparsity,
    sqft_space,
    weight_bits,
)

SHAPE = ModelShape((48, 48, 48), heads=(9, 9, 9), kv_heads=(3, 3, 3))
FUSED = {"q": "qkv", "k": "qkv", "v": "qkv", "o": "o", "up": "up", "down": "down"}


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    layers = draw(st.integers(1, 4))
    ranks = draw(st.lists(st.integers(1, 64), min_size=1, max_size=4))
    widths = draw(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4))
    share = draw(st.sampled_from(["layer", "each"]))
    multiple, per_gene = draw(st.integers(1, 16)), draw(st.integers(1, 4))
    template = lora_rank(ranks, ("q", "up"), share, per_gene) + mlp_width(widths, multiple, per_gene)
    heads = draw(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4))
    template += attention_heads(heads, per_gene) + layer_skip(
        draw(st.sampled_from([("attention",), ("attention", "mlp")]))
    )
    return template.bind(ModelShape((64,) * layers, (12,) * layers, (4,) * layers))


@settings(deadline=None)
@given(spaces(), st.integers(0, 2**32))
def test_genome_and_configuration_are_inverse(space: SearchSpace, seed: int) -> None:
    for genome in space.sample(np.random.default_rng(seed), 5):
        configuration = space.configuration(genome)
        assert np.array_equal(space.genome(configuration), genome)
        assert all(configuration[gene.name] in gene.values for gene in space.genes)


@settings(deadline=None)
@given(spaces())
def test_space_survives_json_with_its_fingerprint(space: SearchSpace) -> None:
    again = SearchSpace.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert again.fingerprint() == space.fingerprint()


@settings(deadline=None)
@given(spaces())
def test_size_is_the_number_of_configurations(space: SearchSpace) -> None:
    assert space.size() >= 1
    if space.size() <= 2000:
        assert space.size() == len(set(itertools.product(*(gene.values for gene in space.genes))))


@settings(deadline=None)
@given(spaces(), st.integers(0, 100))
def test_samples_are_seeded_and_within_the_space(space: SearchSpace, seed: int) -> None:
    drawn = space.sample(np.random.default_rng(seed), 20)
    assert drawn.shape == (20, len(space))
    assert (drawn >= 0).all()
    assert (drawn < space.cardinalities).all()
    assert np.array_equal(drawn, space.sample(np.random.default_rng(seed), 20))


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5), st.integers(1, 20), st.integers(20, 200))
def test_widths_are_multiples_between_one_multiple_and_the_layer(widths, multiple: int, full: int) -> None:
    space = mlp_width(widths, multiple).bind(ModelShape((full,)))
    for value in space.choices[0].values:
        assert multiple <= value <= full
        assert value % multiple == 0 or value == full


def test_values_go_from_small_to_large_and_the_median_is_the_larger_middle() -> None:
    space = lora_rank((32, 24, 16, 8)).bind(SHAPE)
    assert space.genes[0].values == (8, 16, 24, 32)
    assert space.configuration(space.largest)["layers.0.q_k_v_up_down.rank"] == 32
    assert space.configuration(space.smallest)["layers.0.q_k_v_up_down.rank"] == 8
    assert space.configuration(space.median)["layers.0.q_k_v_up_down.rank"] == 24


def test_lonas_is_the_published_space() -> None:
    space = lonas_space().bind(ModelShape((11008,) * 32))
    widths = [gene for gene in space.genes if gene.dimension == "mlp_width"]
    assert len(space) == 96
    assert widths[0].values == (5504, 6880, 8256, 9632, 11008)
    assert space.size() == (2 * 2 * 5) ** 32
    assert [gene.layer for gene in space.genes] == sorted(gene.layer for gene in space.genes)


@pytest.mark.parametrize("layers", [1, 12, 40])
def test_presets_fit_any_layer_count(layers: int) -> None:
    shape = ModelShape((64,) * layers)
    assert len(lonas_space().bind(shape)) == 3 * layers
    assert len(shears_space().bind(shape)) == 3 * layers
    assert len(sqft_space().bind(shape)) == layers


def test_presets_fit_models_with_fused_layers_and_without_a_gate() -> None:
    space = lonas_space().bind(ModelShape((64,), projections=FUSED))
    assert [(gene.name, gene.modules) for gene in space.genes] == [
        ("layers.0.q_k_v.rank", ("layers.0.qkv",)),
        ("layers.0.mlp.width", ("layers.0.up", "layers.0.down")),
        ("layers.0.up.rank", ("layers.0.up",)),
    ]


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.floats(0.01, 1.0))
def test_heads_are_whole_kv_groups(kv_heads: int, group: int, fraction: float) -> None:
    shape = ModelShape((64,), (kv_heads * group,), (kv_heads,))
    (choice,) = attention_heads((fraction,)).bind(shape).choices
    assert choice.values[0] % group == 0
    assert group <= choice.values[0] <= kv_heads * group
    assert abs(choice.values[0] - fraction * kv_heads * group) <= max(group / 2, group - fraction * kv_heads * group)
    assert choice.modules == tuple(f"layers.0.{name}" for name in ("q", "k", "v", "o"))


def test_blocks_that_may_be_skipped_have_a_gene_each_and_the_median_keeps_them() -> None:
    space = layer_skip(layers=(1, -1)).bind(SHAPE)
    assert space.names == tuple(f"layers.{i}.{block}.keep" for i in (1, 2) for block in ("attention", "mlp"))
    assert set(space.configuration(space.median).values()) == {1}


def test_layers_can_share_a_gene() -> None:
    space = mlp_width((1.0, 0.5), layers_per_gene=2).bind(SHAPE)
    assert space.names == ("layers.0-1.mlp.width", "layers.2.mlp.width")
    assert {module.split(".")[1] for module in space.genes[0].modules} == {"0", "1"}


def test_single_values_shape_the_network_without_a_gene() -> None:
    space = (lora_rank((8,)) + mlp_width((1.0, 0.5))).bind(SHAPE)
    assert len(space) == 3
    assert [choice.dimension for choice in space.fixed] == ["lora_rank"] * 3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: lora_rank(()), r"ranks are \(\)"),
        (lambda: lora_rank((8, 0)), "whole numbers from 1"),
        (lambda: lora_rank((8, 4.5)), "whole numbers from 1"),
        (lambda: lora_rank((8,), ()), "targets is empty"),
        (lambda: lora_rank((8,), share="all"), "'all'; choose 'layer', 'each'"),
        (lambda: lora_rank((8,), ("q", "k"), (("q",),)), "exactly once"),
        (lambda: lora_rank((8,), ("x",)).bind(SHAPE), "no projection 'x'; choose from q, k, v"),
        (lambda: mlp_width((0.0,)), "widths are"),
        (lambda: mlp_width((1.5,)), r"widths are \(1\.5,\); give fractions in \(0, 1.0\] as floats, or whole numbers"),
        (lambda: mlp_width((0.5,), 0), "multiple_of is 0"),
        (lambda: mlp_width((64,)).bind(SHAPE), "width is 64, but this layer has 48 channels"),
        (lambda: mlp_width((0.5,), layers_per_gene=0).bind(SHAPE), "layers_per_gene is 0"),
        (lambda: mlp_width((0.5, 1.0), 1, 2).bind(ModelShape((48, 32))), r"intermediate sizes \[32, 48\]"),
        (lambda: attention_heads((10,)).bind(SHAPE), "heads is 10, but this layer has 9 heads"),
        (lambda: attention_heads((4,)).bind(SHAPE), "heads is 4, which splits a KV group.*multiple of 3"),
        (lambda: attention_heads((1.5,)), r"heads are \(1\.5,\)"),
        (lambda: attention_heads((0.5,), 2).bind(ModelShape((8, 8), (4, 8), (2, 2))), "must have equal ones"),
        (lambda: layer_skip(("norm",)), "choose from attention, mlp"),
        (lambda: layer_skip(layers=(3,)).bind(SHAPE), "names layer 3, but this model has 3"),
        (lambda: lora_rank((8,), share="each").bind(ModelShape((8,), projections=FUSED)), "both set the lora_rank"),
        (lambda: (lora_rank((8, 4)) + lora_rank((8, 2))).bind(SHAPE), "twice"),
        (lambda: (lora_rank((8, 4), ("q",)) + lora_rank((8, 2), ("q", "k"))).bind(SHAPE), "both set the lora_rank"),
        (lambda: Choice("a", (2, 1), ("layers.0.q",), "lora_rank"), "from small to large"),
        (lambda: Choice("a", (), ("layers.0.q",), "lora_rank"), "no values"),
    ],
)
def test_bad_space_is_refused(build, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        build()


@pytest.mark.parametrize(
    ("genome", "message"),
    [
        ([0, 0], "3 entries, not shape"),
        ([0, 0, 5], "layers.2.mlp.width has the index 5; this gene's go from 0 to 1"),
        ([0, 0, 0.5], "whole numbers"),
    ],
)
def test_bad_genome_is_refused(genome: list, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        mlp_width((1.0, 0.5)).bind(SHAPE).configuration(genome)


def test_bad_configuration_is_refused() -> None:
    space = mlp_width((1.0, 0.5)).bind(SHAPE)
    good = space.configuration(space.largest)
    with pytest.raises(ConfigurationError, match=r"width is 47, which this space does not offer; choose one of 24, 48"):
        space.genome(good | {"layers.0.mlp.width": 47})
    with pytest.raises(ConfigurationError, match=r"lacks layers\.1\.mlp\.width"):
        space.genome({n: v for n, v in good.items() if "1" not in n})
    with pytest.raises(ConfigurationError, match="'depth' is no gene"):
        space.genome(good | {"depth": 3})


def test_bits_and_density_have_a_gene_a_layer_or_one_a_group() -> None:
    shape = ModelShape((64, 64), (4, 4), (2, 2))
    space = (weight_bits((4, 16, 8)) + sparsity((0.5, 0.0), share=(("q", "k", "v", "o"), ("gate", "up", "down")))).bind(
        shape
    )
    assert [gene.name for gene in space.genes if gene.dimension == "weight_bits"] == [
        "layers.0.weight_bits",
        "layers.1.weight_bits",
    ]
    assert space.configuration(space.largest)["layers.1.gate_up_down.density"] == 1.0
    assert space.configuration(space.smallest)["layers.0.q_k_v_o.density"] == 0.5
    assert space.configuration(space.largest)["layers.0.weight_bits"] == 16
    assert SearchSpace.from_json(space.to_json()) == space
