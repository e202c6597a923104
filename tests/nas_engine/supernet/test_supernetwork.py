"""The super-network on tiny real models of every family: activation, ordering, saving."""

import json

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from nas_engine.errors import CheckpointError, FamilyError
from nas_engine.supernet import SuperNetwork
from search_spaces import ConfigurationError, SpaceError, lora_rank, mlp_width
from tests.supernets import SPACE, logits, random_adapters, supernetwork
from tests.tiny import tiny_llama, tiny_tokenizer


def test_ordered_channels_have_falling_importance_on_the_calibration_batch() -> None:
    supernet = supernetwork(tiny_llama())
    batch = {"input_ids": torch.arange(2, 22).view(2, 10), "attention_mask": torch.ones(2, 10, dtype=torch.long)}
    batch["attention_mask"][1, 6:] = 0
    hidden = {}
    mlp = supernet.model.model.layers[1].mlp
    mlp.down_proj.register_forward_pre_hook(lambda module, args: hidden.update(h=args[0]))
    supernet.order_by_importance([batch])
    supernet.model(**batch)
    # What each channel adds to the output of the tokens that are no padding, written out one by one.
    h, down = hidden["h"][batch["attention_mask"].bool()], mlp.down_proj.weight
    scores = torch.stack([torch.outer(h[:, c], down[:, c]).norm() for c in range(down.shape[1])])
    assert (scores.diff() <= 1e-6).all()
    assert sorted(supernet.layers[1].orders["channels"].tolist()) == list(range(down.shape[1]))


def test_activation_sets_exactly_the_modules_that_a_gene_names() -> None:
    supernet = supernetwork(tiny_llama())
    configuration = supernet.space.configuration(supernet.space.largest) | {"layers.1.mlp.width": 24}
    supernet.activate(configuration)
    sizes = {name: (layer.active_in, layer.active_out) for name, layer in supernet.elastic_linears.items()}
    assert sizes["layers.1.gate"] == sizes["layers.1.up"] == (32, 24)
    assert sizes["layers.1.down"] == (24, 32)
    assert sizes["layers.0.down"] == (48, 32)


def test_unknown_value_or_gene_is_refused_with_what_is_allowed() -> None:
    supernet = supernetwork(tiny_llama())
    largest = supernet.space.configuration(supernet.space.largest)
    with pytest.raises(ConfigurationError, match=r"layers\.1\.mlp\.width is 25.*24, 36, 48"):
        supernet.activate(largest | {"layers.1.mlp.width": 25})
    with pytest.raises(ConfigurationError, match="'layers.9.mlp.width' is no gene"):
        supernet.subnetwork(largest | {"layers.9.mlp.width": 24})


def test_width_beyond_the_layer_is_refused_with_its_size() -> None:
    with pytest.raises(SpaceError, match=r"width is 64, but this layer has 48 channels"):
        SuperNetwork.from_pretrained(tiny_llama(), mlp_width((64, 24)), tiny_tokenizer())


def test_unsupported_family_is_refused_with_the_supported_ones() -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=32, **sizes))
    with pytest.raises(FamilyError, match=r"'gpt_neox'.*bert, bloom, gemma2, .* qwen2, qwen3"):
        SuperNetwork.from_pretrained(model, lora_rank((4, 2)), tiny_tokenizer())


def test_model_object_needs_its_tokenizer() -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        SuperNetwork.from_pretrained(tiny_llama(), lora_rank((4, 2)))


def test_device_that_is_not_there_is_refused(tmp_path) -> None:
    supernet = SuperNetwork.from_pretrained(tiny_llama(), lora_rank((4, 2)), tiny_tokenizer(), device="cpu")
    with pytest.raises(ValueError, match="device is 'abacus', which cannot be used here"):
        supernet.to("abacus")
    with pytest.raises(ValueError, match="device is 'abacus'"):
        SuperNetwork.from_pretrained(tiny_llama(), lora_rank((4, 2)), tiny_tokenizer(), device="abacus")


def test_saved_supernetwork_loads_as_it_was(tmp_path) -> None:
    supernet = random_adapters(supernetwork(tiny_llama()))
    supernet.order_by_importance([{"input_ids": torch.arange(2, 12)[None], "attention_mask": torch.ones(1, 10)}])
    supernet.save(tmp_path)
    loaded = SuperNetwork.load(tmp_path)
    assert loaded.fingerprint() == supernet.fingerprint()
    genome = supernet.space.sample(__import__("numpy").random.default_rng(3))[0]
    configuration = supernet.space.configuration(genome)
    expected = logits(supernet.subnetwork(configuration).model)
    torch.testing.assert_close(logits(loaded.subnetwork(configuration).model), expected)


def test_saved_base_is_the_original_model(tmp_path) -> None:
    model = tiny_llama()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    supernet = random_adapters(supernetwork(model))
    supernet.order_by_importance([{"input_ids": torch.arange(2, 12)[None], "attention_mask": torch.ones(1, 10)}])
    supernet.save(tmp_path)
    base = type(model).from_pretrained(tmp_path / "base")
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())


def test_changed_base_is_refused(tmp_path) -> None:
    supernet = supernetwork(tiny_llama())
    supernet.save(tmp_path)
    tiny_llama(seed=1).save_pretrained(tmp_path / "base")
    with pytest.raises(CheckpointError, match="not the model"):
        SuperNetwork.load(tmp_path)


def test_folder_without_a_supernetwork_is_refused(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="holds no saved super-network"):
        SuperNetwork.load(tmp_path)
    supernetwork(tiny_llama()).save(tmp_path)
    description = json.loads((tmp_path / "supernet.json").read_text())
    (tmp_path / "supernet.json").write_text(json.dumps(description | {"format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        SuperNetwork.load(tmp_path)


def test_fingerprint_changes_with_all_that_is_computed_with(tmp_path) -> None:
    begun = tiny_tokenizer()
    begun.backend_tokenizer.post_processor = TemplateProcessing(single="<eos> $A", special_tokens=[("<eos>", 0)])
    one_row = tiny_llama()
    one_row.model.embed_tokens.weight.data[117] += 1.0
    found = [
        supernetwork(tiny_llama()),
        SuperNetwork.from_pretrained(tiny_llama(), SPACE, begun),
        supernetwork(one_row),
        supernetwork(tiny_llama(rope_parameters={"rope_type": "default", "rope_theta": 3.0})),
        supernetwork(tiny_llama(rms_norm_eps=0.5)),
        supernetwork(tiny_llama(hidden_act="gelu")),
    ]
    assert len({supernet.fingerprint() for supernet in found}) == len(found)
    tiny_tokenizer()(["a", "b c d e"], padding=True, truncation=True, max_length=3)
    assert supernetwork(tiny_llama()).fingerprint() == found[0].fingerprint()
    tiny_llama().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert SuperNetwork.from_pretrained(tmp_path, SPACE).base_fingerprint == found[0].base_fingerprint


def test_fingerprint_changes_with_adapters_scale_and_base() -> None:
    prints = {
        supernetwork(tiny_llama()).fingerprint(),
        random_adapters(supernetwork(tiny_llama())).fingerprint(),
        supernetwork(tiny_llama(seed=1)).fingerprint(),
        SuperNetwork.from_pretrained(tiny_llama(), lora_rank((4, 2)), tiny_tokenizer(), alpha=3.0).fingerprint(),
        SuperNetwork.from_pretrained(tiny_llama(), lora_rank((4, 2)), tiny_tokenizer(), alpha=4.0).fingerprint(),
    }
    assert len(prints) == 5
    assert supernetwork(tiny_llama()).fingerprint() in prints


def test_layers_with_equal_signatures_are_those_whose_genes_agree() -> None:
    supernet = supernetwork(tiny_llama())
    space = supernet.space
    whole = supernet.largest
    other = supernet.subnetwork(space.configuration(space.largest) | {"layers.1.mlp.width": 24})
    agree = [a == b for a, b in zip(whole.layer_signatures, other.layer_signatures, strict=True)]
    assert agree == [True, False, True]
    assert [sizes.intermediate_size for sizes in other.layer_sizes] == [48, 24, 48]
    assert whole.layers == other.layers == tuple(supernet.model.model.layers)
