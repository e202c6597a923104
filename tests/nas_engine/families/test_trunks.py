"""Saved folders build without their output head too, as runtimes do that have one of their own, such as vLLM."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from nas_engine.supernet import SuperNetwork
from tests.supernets import EVERY_DIMENSION, EVERY_FAMILY, TOKENS, random_adapters, supernetwork, whole_space


def saved(family: str, folder) -> tuple[PreTrainedModel, SuperNetwork]:
    """A sub-network with heads and widths that differ, without an attention and without an MLP; its extracted model."""
    supernet = random_adapters(supernetwork(EVERY_FAMILY[family](), whole_space(family)))
    space = supernet.space
    smallest, largest = space.configuration(space.smallest), space.configuration(space.largest)
    genes = ("layers.0.attention.heads", "layers.0.mlp.width", "layers.1.attention.keep", "layers.2.mlp.keep")
    genes = [gene for gene in (*genes, "layers.0.mlp.experts") if gene in largest]
    subnet = supernet.subnetwork(largest | {gene: smallest[gene] for gene in genes})
    subnet.save_pretrained(folder)
    return subnet.extract(), supernet


@torch.inference_mode()
def hidden_states(model: PreTrainedModel) -> torch.Tensor:
    return model.eval()(TOKENS)[0]


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_saved_folders_build_without_their_head_from_the_configuration_alone(tmp_path, family: str) -> None:
    extracted, _ = saved(family, tmp_path / "compressed")
    config = AutoConfig.from_pretrained(tmp_path / "compressed", trust_remote_code=True)
    trunk = AutoModel.from_config(config, trust_remote_code=True)  # as vLLM's Transformers backend does
    expected = extracted.base_model.state_dict()
    assert {name: t.shape for name, t in trunk.state_dict().items()} == {name: t.shape for name, t in expected.items()}
    trunk.load_state_dict(expected)
    assert torch.equal(hidden_states(trunk), hidden_states(extracted.base_model))
    loaded = AutoModel.from_pretrained(tmp_path / "compressed", trust_remote_code=True)
    assert torch.equal(hidden_states(loaded), hidden_states(extracted.base_model))


def test_folders_that_name_one_class_alone_keep_loading(tmp_path) -> None:
    extracted, _ = saved("llama", tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    assert set(config["auto_map"]) == {"AutoModel", "AutoModelForCausalLM"}
    del config["auto_map"]["AutoModel"]  # as they were written before
    file.write_text(json.dumps(config))
    loaded = type(extracted).from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(TOKENS).logits, extracted(TOKENS).logits)


def test_sizes_that_all_layers_share_are_in_the_configuration_though_others_differ() -> None:
    supernet = supernetwork(EVERY_FAMILY["llama"](), EVERY_DIMENSION)
    space = supernet.space
    smallest, largest = space.configuration(space.smallest), space.configuration(space.largest)
    fewer = largest | {name: smallest[name] for name in space.names if name.endswith("attention.heads")}
    config = supernet.subnetwork(fewer | {"layers.1.mlp.width": 24}).extract().config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 8)
    assert config.intermediate_size == 48
    assert set(config.subnetwork["attributes"].values()) <= {2, 1, 16}
    narrower = largest | {name: smallest[name] for name in space.names if name.endswith("mlp.width")}
    config = supernet.subnetwork(narrower | {"layers.1.attention.keep": 0}).extract().config
    assert (config.num_attention_heads, config.intermediate_size) == (4, 24)
