"""The extracted model is the active sub-network, and loads where this project is not installed."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from nas_engine.errors import ExportError
from nas_engine.supernet import SuperNetwork
from search_spaces import attention_heads, lora_rank
from tests.supernets import CALIBRATION, logits, random_adapters, supernetwork
from tests.tiny import LONG_ROPE, tiny_gemma2, tiny_llama, tiny_phi3, tiny_tokenizer


def test_extracted_model_shares_no_tensor_with_the_supernetwork() -> None:
    supernet = random_adapters(supernetwork(tiny_llama()))
    extracted = supernet.largest.extract()
    before = logits(supernet.largest.model)
    with torch.no_grad():
        for parameter in extracted.parameters():
            parameter.zero_()
    assert torch.equal(logits(supernet.largest.model), before)


def test_operators_count_the_matrix_products_of_the_extracted_model() -> None:
    supernet = supernetwork(tiny_llama())
    subnet = supernet.subnetwork(supernet.space.configuration(supernet.space.smallest))
    weights = {op.name: (op.n, op.k) for op in subnet.operators(batch=1, tokens=8) if op.kind == "weight"}
    extracted = subnet.extract()
    linears = {n: tuple(m.weight.shape) for n, m in extracted.named_modules() if isinstance(m, torch.nn.Linear)}
    by_path = {supernet.family.path(n) if n.startswith("layers.") else n: shape for n, shape in weights.items()}
    assert by_path == linears


def test_equal_widths_leave_as_the_stock_architecture(tmp_path) -> None:
    supernet = random_adapters(supernetwork(tiny_llama()))
    subnet = supernet.subnetwork(supernet.space.configuration(supernet.space.smallest))
    subnet.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded).__name__ == "LlamaForCausalLM"
    assert loaded.config.intermediate_size == 24
    torch.testing.assert_close(logits(loaded), logits(subnet.model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("model", "heads"),
    [
        (partial(tiny_llama, num_key_value_heads=4), 3),  # no divisor of the hidden size
        (partial(tiny_gemma2, num_key_value_heads=4), 3),
        (partial(tiny_phi3, **LONG_ROPE), 2),  # RoPE's factors are counted by the hidden size over the heads
    ],
)
def test_heads_that_no_stock_configuration_may_have_leave_with_code(
    tmp_path, model: Callable[[], PreTrainedModel], heads: int
) -> None:
    space = lora_rank((4,)) + attention_heads((1.0, heads / 4), layers_per_gene=3)
    supernet = random_adapters(supernetwork(model(), space))
    subnet = supernet.subnetwork(supernet.space.configuration(supernet.space.smallest))
    assert {sizes.heads for sizes in subnet.layer_sizes} == {heads}
    subnet.save_pretrained(tmp_path)
    assert list(tmp_path.glob("*.py"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    torch.testing.assert_close(logits(loaded), logits(subnet.model), atol=1e-4, rtol=1e-4)


def mixed_widths(supernet: SuperNetwork) -> dict:
    return supernet.space.configuration(supernet.space.largest) | {"layers.1.mlp.width": 24}


def test_reloaded_mixed_model_saves_and_loads_again(tmp_path) -> None:
    supernet = random_adapters(supernetwork(tiny_llama()))
    subnet = supernet.subnetwork(mixed_widths(supernet))
    subnet.save_pretrained(tmp_path / "first")
    once = AutoModelForCausalLM.from_pretrained(tmp_path / "first", trust_remote_code=True)
    once.save_pretrained(tmp_path / "second")
    twice = AutoModelForCausalLM.from_pretrained(tmp_path / "second", trust_remote_code=True)
    assert torch.equal(logits(twice), logits(once))


@pytest.mark.parametrize("ordered_first", [False, True])
def test_sub_adapter_loads_as_a_peft_adapter_of_the_original_model(tmp_path, ordered_first: bool) -> None:
    supernet = random_adapters(supernetwork(tiny_llama()))
    if ordered_first:
        supernet.order_by_importance(CALIBRATION)
    space = supernet.space
    ranks = {gene.name: gene.values[i % 2] for i, gene in enumerate(space.genes) if gene.dimension == "lora_rank"}
    subnet = supernet.subnetwork(space.configuration(space.largest) | ranks)
    expected = logits(subnet.model)
    subnet.save_adapter(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path)
    assert (logits(loaded) - expected).abs().max() < 1e-4


def test_adapter_of_a_narrowed_model_is_refused(tmp_path) -> None:
    supernet = supernetwork(tiny_llama())
    with pytest.raises(ExportError, match=r"layers\.1\.gate is active at 24 × 32 of 48 × 32"):
        supernet.subnetwork(mixed_widths(supernet)).save_adapter(tmp_path)


def test_rank_search_alone_extracts_to_the_original_size() -> None:
    supernet = SuperNetwork.from_pretrained(tiny_llama(), lora_rank((4, 2)), tiny_tokenizer())
    small, large = (
        supernet.subnetwork(supernet.space.configuration(g)) for g in (supernet.space.smallest, supernet.space.largest)
    )
    assert small.parameter_count() == large.parameter_count() == sum(p.numel() for p in tiny_llama().parameters())
    assert large.parameter_count(merged=False) - small.parameter_count(merged=False) == sum(
        2 * (layer.in_features + layer.out_features) for layer in supernet.elastic_linears.values()
    )
