"""A base held as integers computes, learns, is saved and leaves as the same base in floating point."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_engine import Example, train
from nas_engine.compression import GridSettings, dequantize, quantize, quantize_model
from nas_engine.compression.grid import find_grid
from nas_engine.compression.packing import pack, unpack, widened
from nas_engine.errors import CompressionError
from nas_engine.estimation.tensor_bytes import TensorBytes, bytes_of
from nas_engine.supernet import SuperNetwork
from nas_engine.supernet.made_weight import product
from search_spaces import attention_heads
from tests.compressed import sqft
from tests.supernets import CALIBRATION, SPACE, TOKENS, logits, random_adapters, supernetwork
from tests.tiny import tiny_gpt2, tiny_llama

EXAMPLES = [Example(f"the {word} ", "is it") for word in ("cat", "dog", "tree", "house")]
WHOLE = SPACE + attention_heads((1.0, 0.5))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), bits=st.sampled_from([4, 8]), rows=st.integers(1, 5), groups=st.integers(1, 4))
def test_integers_come_back_as_they_were_packed(seed: int, bits: int, rows: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    integers = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (rows, 6 * groups), generator=generator).to(
        torch.int8
    )
    held = pack(integers, bits)
    assert held.numel() == integers.numel() * bits // 8
    assert torch.equal(unpack(held, bits), integers)


@pytest.mark.parametrize("group_size", [4, 3])
def test_a_part_made_of_integers_is_that_part_of_the_weight(group_size: int) -> None:
    weight = torch.randn(8, 12, generator=torch.Generator().manual_seed(0))
    grid = find_grid(weight, GridSettings(4, group_size, symmetric=False))
    integers = quantize(weight, grid)
    whole, held = dequantize(integers, grid), pack(integers, 4)
    for inputs in range(group_size, 13, group_size):
        assert torch.equal(widened(held, grid, slice(2, 7), inputs), whole[2:7, :inputs])


def pair(model=tiny_llama, bits: int = 4) -> tuple[SuperNetwork, SuperNetwork]:
    """A quantized super-network in floating point, and the same one packed."""
    model = model()
    quantization = quantize_model(model, CALIBRATION, bits, 4, symmetric=False)
    floats, packed = (
        random_adapters(supernetwork(copy.deepcopy(model), WHOLE, quantization=quantization)) for _ in range(2)
    )
    packed.pack_base()
    return floats, packed


@pytest.mark.parametrize(
    ("model", "bits"), [(tiny_llama, 4), pytest.param(tiny_llama, 8, marks=pytest.mark.slow), (tiny_gpt2, 4)]
)
def test_packed_base_computes_and_learns_the_same(model, bits: int) -> None:
    floats, packed = pair(model, bits)
    slack = 1e-5 if model is tiny_gpt2 else 0.0  # its weights lie the other way round, and are multiplied so
    assert packed.fingerprint() == floats.fingerprint()
    of_packed, of_floats = (
        bytes_of([linear.weight for linear in of.elastic_linears.values()]) for of in (packed, floats)
    )
    assert of_packed * 32 // bits == of_floats
    for genome in floats.space.smallest, floats.space.largest:
        gradients = []
        for supernet in (floats, packed):
            supernet.activate_genome(genome)
            supernet.model.train()
            torch.manual_seed(0)  # of dropout
            supernet.model(TOKENS, labels=TOKENS, use_cache=False).loss.backward()
            gradients.append([p.grad for p in supernet.adapter_parameters])
            for parameter in supernet.adapter_parameters:
                parameter.grad = None
        for a, b in zip(*gradients, strict=True):
            assert (a is None) == (b is None)
            assert a is None or (a - b).abs().max() <= slack
        assert (logits(packed.model) - logits(floats.model)).abs().max() <= slack
        extracted = [of.subnetwork(of.space.configuration(genome)).extract() for of in (floats, packed)]
        assert (logits(extracted[0]) - logits(extracted[1])).abs().max() <= slack


def test_training_on_a_packed_base_resumes_exactly(tmp_path) -> None:
    floats, packed = pair()
    whole = train(floats, EXAMPLES, steps=4, batch_size=2, progress=False)
    with pytest.raises(RuntimeError, match="killed"):
        _killed_at(packed, 2, tmp_path / "run")
    _, fresh = pair()
    resumed = train(fresh, EXAMPLES, steps=4, batch_size=2, checkpoint=tmp_path / "run", progress=False)
    assert resumed.resumed_at == 2
    assert resumed.losses == whole.losses
    assert fresh.fingerprint() == floats.fingerprint()
    fresh.save(tmp_path / "saved", include_base=True)
    for pack_it in (False, True):
        loaded = SuperNetwork.load(tmp_path / "saved", pack=pack_it)
        assert all(linear.packed == pack_it for linear in loaded.elastic_linears.values())
        assert torch.equal(logits(loaded.model), logits(fresh.model))


def _killed_at(supernet: SuperNetwork, step: int, folder) -> None:
    passes = 0

    def count(*_) -> None:
        nonlocal passes
        passes += 1
        if passes > step:
            raise RuntimeError("killed")

    handle = supernet.model.base_model.register_forward_pre_hook(count)
    try:
        train(supernet, EXAMPLES, steps=4, batch_size=2, checkpoint=folder, checkpoint_every=1, progress=False)
    finally:
        handle.remove()


def test_weights_made_for_a_product_are_not_kept_for_its_gradient() -> None:
    x, weight = torch.randn(4, 256, requires_grad=True), torch.randn(512, 256).half()
    with TensorBytes() as made:
        y = product(x, lambda: weight.float(), None)
    assert made.peak > 4 * weight.numel()
    assert made.held == y.numel() * 4
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, torch.ones_like(y) @ weight.float())


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(CompressionError, match="only a quantized base is held as integers"):
        supernetwork(tiny_llama(), SPACE).pack_base()
    model = tiny_llama()
    quantization = quantize_model(model, CALIBRATION, 4, 4)
    with pytest.raises(CompressionError, match="trains on weights that are not rounded yet"):
        supernetwork(model, SPACE, quantization=quantization, adapter_mode="quantized", pack=True)
    supernet = sqft()
    with torch.no_grad():
        supernet.elastic_linears["layers.1.up"].weight[0, 0] += 0.01
    with pytest.raises(CompressionError, match=r"layers\.1\.up has 1 of .* beside its 4-bit grid"):
        supernet.pack_base()
