"""Non-zero parameters, bytes of weights and caches, and peak memory, against counts on real models."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from evaluators import KVCacheBytes, NonZeroParameters, Operator, ParameterCount, PeakMemory, WeightBytes
from nas_engine.supernet.subnetwork import Subnetwork
from tests.supernets import EVERY_DIMENSION, FAMILIES, supernetwork
from tests.tiny import tiny_llama

PROJECTIONS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def subnetworks(model, count: int = 3, seed: int = 3) -> list[Subnetwork]:
    supernet = supernetwork(model, EVERY_DIMENSION)
    genomes = supernet.space.sample(np.random.default_rng(seed), count)
    return [supernet.largest, *(supernet.subnetwork(supernet.space.configuration(genome)) for genome in genomes)]


@dataclass
class Sparse:
    """A sub-network that says how sparse its projections are, and at how many bits they are stored."""

    dense: Subnetwork
    sparsity: dict[str, float]
    weight_bits: int = 32

    @property
    def layer_sizes(self):
        return self.dense.layer_sizes

    def parameter_count(self, merged: bool = True) -> int:
        return self.dense.parameter_count(merged)

    def operators(self, batch: int, tokens: int, past: int = 0) -> list[Operator]:
        return [
            replace(
                op,
                sparsity=self.sparsity.get(op.name, 0.0),
                weight_bits=self.weight_bits if op.name.startswith("layers.") else op.weight_bits,
            )
            for op in self.dense.operators(batch, tokens, past)
        ]


@pytest.mark.parametrize("tied", [False, True])
def test_nonzero_parameters_are_those_that_a_count_finds(tied: bool) -> None:
    subnet = supernetwork(tiny_llama(tie_word_embeddings=tied)).largest
    assert NonZeroParameters()(subnet).value == ParameterCount()(subnet).value
    model, sparsity = subnet.extract(), {}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        embedding[embedding == 0] = 1e-3  # padding's row; no operator tells of zeros there
        for i, layer in enumerate(model.model.layers):
            for name, path in PROJECTIONS.items():
                weight = layer.get_submodule(path).weight
                weight.masked_fill_(torch.rand(weight.shape, generator=generator) < 0.1 * (i + 4), 0.0)
                sparsity[f"layers.{i}.{name}"] = (weight == 0).double().mean().item()
    counted = sum(int((p != 0).sum()) for p in model.parameters())
    assert counted < 0.8 * ParameterCount()(subnet).value
    assert NonZeroParameters()(Sparse(subnet, sparsity)).value == counted


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "bert", "phi3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weight_bytes_are_those_of_the_extracted_model(family: str, dtype: torch.dtype) -> None:
    for subnet in subnetworks(FAMILIES[family]().to(dtype)):
        expected = sum(p.numel() * p.element_size() for p in subnet.extract().parameters())
        assert WeightBytes()(subnet).value == expected


@pytest.mark.parametrize("tied", [False, True])
def test_weight_bytes_count_matrices_at_their_bits_and_the_rest_at_the_models(tied: bool) -> None:
    subnet = supernetwork(tiny_llama(tie_word_embeddings=tied)).largest
    matrices = sum(
        layer.get_submodule(path).weight.numel()
        for layer in subnet.extract().model.layers
        for path in PROJECTIONS.values()
    )
    rest = ParameterCount()(subnet).value - matrices
    assert WeightBytes()(Sparse(subnet, {}, weight_bits=4)).value == matrices / 2 + 4 * rest


def test_sparse_weight_bytes_are_nonzeros_at_their_bits_and_a_bit_a_weight() -> None:
    subnet = supernetwork(tiny_llama()).largest
    up = next(op for op in subnet.operators(1, 1) if op.name == "layers.0.up")
    elements = up.k * up.n
    dense = WeightBytes(sparse=True)(subnet).value
    assert dense == WeightBytes()(subnet).value
    half = Sparse(subnet, {"layers.0.up": 0.5})
    assert WeightBytes()(half).value == dense
    assert dense - WeightBytes(sparse=True)(half).value == 4 * elements / 2 - elements / 8
    hardly = Sparse(subnet, {"layers.0.up": 1 / 64})  # saves half a bit a weight, less than the bit costs
    assert WeightBytes(sparse=True)(hardly).value == dense
    assert WeightBytes(sparse=True).settings() != WeightBytes().settings()


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "mpt", "gemma3"])
def test_kv_cache_bytes_are_those_of_a_filled_cache(family: str) -> None:
    for subnet in subnetworks(FAMILIES[family]()):
        with torch.inference_mode():
            cache = subnet.extract()(torch.arange(2, 26).view(2, 12), use_cache=True).past_key_values
        # Attention that is left out keeps one element a token, by which the cache counts positions.
        held = [t for layer in cache.layers for t in (layer.keys, layer.values) if t is not None and t.shape[-1] > 1]
        assert KVCacheBytes(batch=2, tokens=12)(subnet).value == sum(t.numel() * t.element_size() for t in held)
        assert KVCacheBytes(batch=2, tokens=12, bits=8)(subnet).value * 4 == KVCacheBytes(2, 12)(subnet).value


def measured_peak(model, ids: torch.Tensor) -> int:
    """The most bytes that a forward pass holds above the model itself."""
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model(ids, use_cache=True, logits_to_keep=1)
    changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())])
    return int(held.max())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "opt", "phi3"])
def test_peak_memory_is_within_half_as_much_of_a_measured_forward_pass(family: str, attention: str) -> None:
    supernet = supernetwork(FAMILIES[family](attn_implementation=attention), EVERY_DIMENSION)
    largest = dict(supernet.largest.configuration)
    narrow = {name: min(c.values) for c in supernet.space.choices if (name := c.name).endswith(("width", "heads"))}
    for configuration in (largest, largest | narrow):
        subnet = supernet.subnetwork(configuration)
        for batch, tokens in ((8, 128), (2, 250)):
            estimate = PeakMemory(batch, tokens, fused_attention=attention == "sdpa")(subnet).value
            working = estimate - WeightBytes()(subnet).value
            measured = measured_peak(subnet.extract(), torch.randint(2, 200, (batch, tokens)))
            assert 1 / 1.5 < working / measured < 1.5


def test_decoding_holds_one_row_and_the_cache() -> None:
    subnet = supernetwork(tiny_llama()).largest
    cache, weights = KVCacheBytes(4, 101)(subnet).value, WeightBytes()(subnet).value
    working = PeakMemory(batch=4, tokens=100, phase="decode")(subnet).value - cache - weights
    assert 0 < working < PeakMemory(batch=4, tokens=100)(subnet).value - weights - KVCacheBytes(4, 100)(subnet).value


@pytest.mark.parametrize(
    ("evaluator", "arguments", "message"),
    [
        (KVCacheBytes, {"tokens": 0}, "tokens is 0"),
        (KVCacheBytes, {"bits": -8}, "bits is -8"),
        (PeakMemory, {"batch": 0}, "batch is 0"),
        (PeakMemory, {"phase": "train"}, "phase is 'train'; choose one of 'prefill', 'decode'"),
    ],
)
def test_bad_workloads_are_refused(evaluator, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluator(**arguments)


def test_settings_change_with_what_changes_the_score() -> None:
    assert KVCacheBytes(tokens=8).settings() != KVCacheBytes(tokens=9).settings()
    assert PeakMemory().settings() != PeakMemory(fused_attention=False).settings()
    assert all(e.computed for e in (KVCacheBytes(), NonZeroParameters(), PeakMemory(), WeightBytes()))
