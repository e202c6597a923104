"""LoRA both ways: PEFT's checkpoints start a super-adapter, and sub-adapters leave as PEFT's checkpoints."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from nas_engine.errors import CheckpointError
from nas_engine.supernet import SuperNetwork
from search_spaces import lora_rank
from tests.supernets import CALIBRATION, EVERY_DIMENSION, FAMILIES, logits, random_adapters, supernetwork
from tests.tiny import tiny_llama, tiny_tokenizer


def peft_model(family: str, folder, rank: int = 3, **config) -> nn.Module:
    """A PEFT model with random adapters on every projection that the space adapts, saved in `folder`."""
    supernet = supernetwork(FAMILIES[family](), EVERY_DIMENSION)
    targets = sorted(supernet.family.path(name) for name in supernet.elastic_linears)
    task = "SEQ_CLS" if family == "bert" else "CAUSAL_LM"
    settings = LoraConfig(r=rank, lora_alpha=5, target_modules=targets, task_type=task, **config)
    model = get_peft_model(FAMILIES[family](), settings)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1, generator=generator)
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("ordered_first", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_checkpoint_starts_the_largest_subnetwork(tmp_path, family: str, ordered_first: bool) -> None:
    expected = logits(peft_model(family, tmp_path))
    supernet = supernetwork(FAMILIES[family](), EVERY_DIMENSION)
    if ordered_first:
        supernet.order_by_importance(CALIBRATION)
    supernet.load_adapter(tmp_path)
    torch.testing.assert_close(logits(supernet.largest.model), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "config", [{"use_rslora": True}, {"alpha_pattern": {"q_proj": 11}, "rank_pattern": {"k_proj": 2}}]
)
def test_scales_of_peft_are_kept(tmp_path, config) -> None:
    expected = logits(peft_model("llama", tmp_path, **config))
    supernet = supernetwork(tiny_llama(), alpha=9.0)
    supernet.load_adapter(tmp_path)
    torch.testing.assert_close(logits(supernet.largest.model), expected, atol=1e-4, rtol=1e-4)


def test_imported_ranks_are_ordered_by_singular_value(tmp_path) -> None:
    model = peft_model("llama", tmp_path, rank=4)
    lora = model.base_model.model.model.layers[1].self_attn.q_proj
    delta = lora.get_delta_weight("default").detach()
    supernet = supernetwork(tiny_llama())
    supernet.load_adapter(tmp_path)
    linear = supernet.elastic_linears["layers.1.q"]
    singular = torch.linalg.svdvals(delta)
    for rank in range(1, 5):
        product = linear.scaling * linear.lora_B[:, :rank] @ linear.lora_A[:rank]
        assert (delta - product).norm().item() == pytest.approx(singular[rank:].norm().item(), abs=1e-5)


def test_checkpoint_that_does_not_fit_is_refused_with_the_reason(tmp_path) -> None:
    peft_model("llama", tmp_path)
    supernet = SuperNetwork.from_pretrained(tiny_llama(), lora_rank((2,), ("q",)), tiny_tokenizer())
    with pytest.raises(CheckpointError, match=r"adapts model\.layers\.0\.mlp\.down_proj, which has no adapter"):
        supernet.load_adapter(tmp_path)
    with pytest.raises(CheckpointError, match="has rank 3 for .* at least 3"):
        supernetwork(tiny_llama(), lora_rank((2,), ("q", "k", "v", "o", "gate", "up", "down"))).load_adapter(tmp_path)
    wider = supernetwork(tiny_llama(hidden_size=64, num_attention_heads=8, num_key_value_heads=4))
    with pytest.raises(CheckpointError, match="belongs to another model"):
        wider.load_adapter(tmp_path)
    with pytest.raises(CheckpointError, match="holds no PEFT adapter"):
        supernet.load_adapter(tmp_path / "elsewhere")
    peft_model("llama", tmp_path / "dora", use_dora=True)
    with pytest.raises(CheckpointError, match="DoRA"):
        supernet.load_adapter(tmp_path / "dora")


@pytest.mark.parametrize("family", FAMILIES)
def test_sub_adapter_leaves_as_a_peft_adapter_of_the_original_model(tmp_path, family: str) -> None:
    supernet = random_adapters(supernetwork(FAMILIES[family](), EVERY_DIMENSION))
    supernet.order_by_importance(CALIBRATION)
    space = supernet.space
    ranks = {gene.name: gene.values[i % 2] for i, gene in enumerate(space.genes) if gene.dimension == "lora_rank"}
    subnet = supernet.subnetwork(space.configuration(space.largest) | ranks)
    expected = logits(subnet.model)
    subnet.save_adapter(tmp_path)
    torch.testing.assert_close(
        logits(PeftModel.from_pretrained(FAMILIES[family](), tmp_path)), expected, atol=1e-4, rtol=1e-4
    )
