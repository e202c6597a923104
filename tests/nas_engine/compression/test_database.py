"""Bits and sparsity as genes: versions on disk, switched in place, together with rank and width."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from evaluators import ParameterCount, cost_model
from nas_engine import Example, search, train
from nas_engine.compression import GridSettings, gptq, quantize
from nas_engine.compression.calibration import calibrated_layers
from nas_engine.compression.database import DENSE, LayerDatabase, Level
from nas_engine.compression.database_building import build_database
from nas_engine.compression.observers import Hessians
from nas_engine.compression.rounding import output_error
from nas_engine.compression.sparsification import matrix_of
from nas_engine.compression.sparsity import pattern_of, wanda_mask
from nas_engine.errors import CompressionError
from nas_engine.jobs.recipes import ordered
from nas_engine.supernet import SuperNetwork
from nas_engine.supernet.stored_form import active_grids
from search_spaces import SpaceError, lora_rank, mlp_width, sparsity, weight_bits
from tests.supernets import CALIBRATION, FAMILIES, logits, random_adapters
from tests.tiny import tiny_llama, tiny_tokenizer

JOINT = lora_rank((4, 2)) + mlp_width((1.0, 0.5), multiple_of=8) + weight_bits((16, 8, 4)) + sparsity((0.0, 0.25, 0.5))
LEVELS = {"bits": (16, 8, 4), "sparsities": (0.0, 0.25, 0.5), "group_size": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("database")
    build_database(tiny_llama(), CALIBRATION, path, **LEVELS)
    return path


def joint(folder, space=JOINT, model=None, **settings) -> SuperNetwork:
    database = LayerDatabase(folder, **settings)
    supernet = SuperNetwork.from_pretrained(
        model or tiny_llama(), space, tiny_tokenizer(), adapter_mode="quantized", database=database
    )
    return random_adapters(supernet)


def some(supernet: SuperNetwork, count: int = 5):
    genomes = supernet.space.sample(np.random.default_rng(1), count)
    return [supernet.subnetwork(supernet.space.configuration(genome)) for genome in genomes]


def test_versions_are_what_wanda_and_gptq_give_on_the_dense_model(folder) -> None:
    database = LayerDatabase(folder)
    for layer in calibrated_layers(tiny_llama(), CALIBRATION):
        hessians = Hessians()
        layer.observe(hessians)
        for projection, linear in layer.projections.items():
            weight, hessian, name = matrix_of(linear), hessians[projection], layer.name(projection)
            assert torch.equal(database.version(name, DENSE).weight, weight)
            keep = wanda_mask(weight, hessian.diagonal().sqrt(), pattern_of(0.5))
            sparse = database.version(name, Level(16, 0.5))
            assert torch.equal(sparse.weight, (weight * keep).half().float())
            found = gptq(weight * keep, hessian, GridSettings(4, 8, symmetric=False))
            version = database.version(name, Level(4, 0.5))
            assert (version.weight[~keep] == 0).all()
            same = quantize(version.weight, version.grid) == found.integers
            assert same.float().mean() > 0.99  # half precision moves a weight at a boundary


def test_refitted_versions_keep_the_masks_and_lie_closer_to_the_dense_outputs(folder, tmp_path) -> None:
    refit = build_database(tiny_llama(), CALIBRATION, tmp_path, **LEVELS, refit=True)
    plain = LayerDatabase(folder)
    with pytest.raises(CompressionError, match="another model or other levels"):
        build_database(tiny_llama(), CALIBRATION, tmp_path, **LEVELS)
    for layer in calibrated_layers(tiny_llama(), CALIBRATION):
        hessians = Hessians()
        layer.observe(hessians)
        for projection, linear in layer.projections.items():
            name = layer.name(projection)
            versions = [database.version(name, Level(16, 0.5)).weight for database in (plain, refit)]
            assert torch.equal(versions[0] != 0, versions[1] != 0)
            errors = [output_error(matrix_of(linear), weight, hessians[projection]) for weight in versions]
            assert errors[1] < errors[0]


def test_largest_subnetwork_without_adapters_is_the_base(folder) -> None:
    space = weight_bits((16, 8, 4)) + sparsity((0.0, 0.5))
    supernet = SuperNetwork.from_pretrained(
        tiny_llama(), space, tiny_tokenizer(), adapter_mode="quantized", database=LayerDatabase(folder)
    )
    before = logits(tiny_llama())
    assert (logits(supernet.subnetwork(space_smallest(supernet)).model) - before).abs().max() > 1e-3
    assert torch.equal(logits(supernet.largest.model), before)


def space_smallest(supernet: SuperNetwork):
    return supernet.space.configuration(supernet.space.smallest)


def test_switching_back_and_forth_changes_nothing(folder) -> None:
    supernet = joint(folder)
    subnets = some(supernet)
    first = [logits(subnet.model) for subnet in subnets]
    for subnet, expected in reversed(list(zip(subnets, first, strict=True))):
        assert torch.equal(logits(subnet.model), expected)


def test_extracted_subnetwork_of_all_dimensions_computes_what_the_active_one_computes(folder) -> None:
    supernet = joint(folder)
    for subnet in some(supernet):
        extracted = subnet.extract(merge=True)
        assert (logits(extracted) - logits(subnet.model)).abs().max() < 1e-4
        assert sum(p.numel() for p in extracted.parameters()) == subnet.parameter_count()


def test_mixed_bits_save_as_integers_and_load_in_transformers(folder, tmp_path) -> None:
    supernet = joint(folder)
    configuration = supernet.space.configuration(supernet.space.largest) | {
        "layers.0.weight_bits": 4,
        "layers.1.weight_bits": 8,
        "layers.1.density": 0.5,
    }
    subnet = supernet.subnetwork(configuration)
    subnet.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (logits(loaded) - logits(subnet.model)).abs().max() < 1e-4


def test_operators_tell_each_layers_bits_zeros_and_sizes(folder) -> None:
    supernet = joint(folder)
    for subnet in some(supernet):
        given = subnet.configuration
        operators = {op.name: op for op in subnet.operators(1, 8)}
        for layer in range(3):
            for projection in ("q", "up", "down"):
                operator = operators[f"layers.{layer}.{projection}"]
                assert operator.weight_bits == given[f"layers.{layer}.weight_bits"]
            density = given[f"layers.{layer}.density"]
            assert operators[f"layers.{layer}.q"].sparsity == pytest.approx(1 - density, abs=0.01)
            assert operators[f"layers.{layer}.up"].n == given[f"layers.{layer}.mlp.width"]
        grids = active_grids(supernet)
        on_grids = [op for op in operators.values() if op.scale_bytes]
        assert len(on_grids) == len(grids)
        assert sum(op.weight_bytes for op in on_grids) == sum(grid.stored_bytes for grid in grids.values())


def test_versions_in_memory_stay_within_their_budget(folder) -> None:
    tight = joint(folder, budget_bytes=50_000)
    ample = joint(folder)
    for ours, theirs in zip(some(tight), some(ample), strict=True):
        assert torch.equal(logits(ours.model), logits(theirs.model))
    assert tight.database.kept_bytes <= 50_000 < ample.database.kept_bytes


def test_joint_space_trains_searches_and_loads_again(folder, tmp_path) -> None:
    @cost_model(unit="bytes")
    def weight_bytes(subnet) -> float:
        return sum(op.weight_bytes * (1 - op.sparsity) for op in subnet.operators(1, 8))

    supernet = joint(folder)
    report = train(supernet, [Example("the ", "cat"), Example("a ", "dog")], steps=4, batch_size=2, progress=False)
    assert len(report.losses) == 4
    supernet.save(tmp_path)
    loaded = SuperNetwork.load(tmp_path)
    assert loaded.fingerprint() == supernet.fingerprint()
    for ours, theirs in zip(some(loaded), some(supernet), strict=True):
        assert torch.equal(logits(ours.model), logits(theirs.model))
    result = search(
        loaded, [ParameterCount(), weight_bytes], driver="nsga2", evaluations=12, population=6, progress=False
    )
    assert not result.frame["error"].any()
    assert result.frame["weight_bytes"].nunique() > 3


def test_ordered_base_keeps_its_order(tmp_path) -> None:
    model = ordered(tiny_llama(), tiny_tokenizer(), CALIBRATION)
    build_database(model, CALIBRATION, tmp_path, bits=(16, 4), sparsities=(0.0,), group_size=8)
    supernet = joint(tmp_path, mlp_width((1.0, 0.5), 8) + weight_bits((16, 4)), model)
    assert supernet.ordered


@pytest.mark.parametrize("family", ["gpt2", "phi3", "bloom", "bert"])
def test_fused_and_transposed_projections_switch_too(tmp_path, family: str) -> None:
    model = FAMILIES[family]()
    build_database(model, CALIBRATION, tmp_path, bits=(16, 4), sparsities=(0.0, 0.5), group_size=8)
    supernet = joint(tmp_path, lora_rank((4, 2)) + weight_bits((16, 4)) + sparsity((0.0, 0.5)), model)
    for subnet in some(supernet, 3):
        assert (logits(subnet.extract(merge=True)) - logits(subnet.model)).abs().max() < 1e-4


def test_interrupted_build_goes_on_and_says_what_is_missing(tmp_path) -> None:
    settings = {"bits": (16, 4), "sparsities": (0.0,), "group_size": 8}
    build_database(tiny_llama(), CALIBRATION, tmp_path, **settings)
    (tmp_path / "layers.1.safetensors").unlink()
    kept = (tmp_path / "layers.2.safetensors").stat().st_mtime_ns
    with pytest.raises(CompressionError, match="lacks layers 1; call build_database again to go on"):
        LayerDatabase(tmp_path)
    build_database(tiny_llama(), CALIBRATION, tmp_path, **settings)
    assert (tmp_path / "layers.2.safetensors").stat().st_mtime_ns == kept
    with pytest.raises(CompressionError, match="another model or other levels"):
        build_database(tiny_llama(seed=1), CALIBRATION, tmp_path, **settings)


def test_bad_input_is_refused_with_what_to_do(folder, tmp_path) -> None:
    with pytest.raises(CompressionError, match=r"pass database=build_database"):
        SuperNetwork.from_pretrained(tiny_llama(), JOINT, tiny_tokenizer())
    with pytest.raises(CompressionError, match="layers of another model"):
        joint(folder, model=tiny_llama(seed=1))
    with pytest.raises(CompressionError, match=r"at 16 bits and density 0\.4, which .* does not hold"):
        joint(folder, sparsity((0.0, 0.6)))
    with pytest.raises(CompressionError, match="may be 36, which cuts a group of 8 inputs"):
        joint(folder, mlp_width((1.0, 0.75)) + weight_bits((16, 4)))
    with pytest.raises(CompressionError, match="group_size is 31, which does not divide the 32 inputs"):
        build_database(tiny_llama(), CALIBRATION, tmp_path, group_size=31)
    with pytest.raises(CompressionError, match="holds no database"):
        LayerDatabase(tmp_path / "elsewhere")
    with pytest.raises(SpaceError, match=r"bits are \(3,\); choose from 16, 8, 4"):
        weight_bits((3,))
    with pytest.raises(SpaceError, match=r"sparsities are \(1.0,\); give fractions from 0 to below 1"):
        sparsity((1.0,))
