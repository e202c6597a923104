"""Models are written while they are merged: the same files' content as that of a model merged before."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nas_engine import SuperNetwork
from nas_engine.errors import ExportError
from nas_engine.estimation.tensor_bytes import TensorBytes
from nas_engine.supernet import saving
from search_spaces import lora_rank, mlp_width
from tests.supernets import EVERY_DIMENSION, FAMILIES, TOKENS, random_adapters, supernetwork
from tests.tiny import tiny_llama

BATCHES = [{"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}]


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_what_is_written_is_what_extraction_gives(family: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(saving, "SHARD_BYTES", 10_000)
    supernet = supernetwork(FAMILIES[family](), EVERY_DIMENSION)
    supernet.order_by_importance(BATCHES, refit=True)
    random_adapters(supernet)
    subnet = supernet.subnetwork(
        supernet.space.configuration(supernet.space.smallest // 2 + supernet.space.largest // 2)
    )
    written, extracted = tensors_of(subnet.save_pretrained(tmp_path / "model")), subnet.extract().state_dict()
    index = json.loads((tmp_path / "model/model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(written)
    assert set(written) <= set(extracted)
    assert all(torch.equal(tensor, extracted[name]) for name, tensor in written.items())


def test_base_is_written_in_its_original_order(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(saving, "SHARD_BYTES", 10_000)
    model = tiny_llama()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    supernet = supernetwork(model, lora_rank((4,)) + mlp_width((1.0, 0.5)))
    supernet.order_by_importance(BATCHES)
    written = tensors_of(supernet.save_base(tmp_path / "base"))
    assert written
    assert all(torch.equal(tensor, before[name]) for name, tensor in written.items())
    supernet.save(tmp_path / "supernet")
    assert SuperNetwork.load(tmp_path / "supernet").fingerprint() == supernet.fingerprint()


def test_a_second_copy_is_never_held(tmp_path, monkeypatch) -> None:
    supernet = supernetwork(tiny_llama(hidden_size=64, intermediate_size=1024), lora_rank((4,)) + mlp_width((1.0, 0.5)))
    peaks = {}
    for size in (30_000, 10**9):
        monkeypatch.setattr(saving, "SHARD_BYTES", size)
        with TensorBytes() as made:
            supernet.largest.save_pretrained(tmp_path / str(size))
        peaks[size] = made.peak
    layers = 3 * 4 * 3 * 64 * 1024  # bytes of what is merged
    assert peaks[10**9] > layers
    assert peaks[30_000] < layers / 2


def test_weights_that_are_not_finite_are_refused_and_nothing_is_left(tmp_path) -> None:
    supernet = supernetwork(tiny_llama(), lora_rank((4,)))
    with torch.no_grad():
        supernet.elastic_linears["layers.1.up"].lora_A[0, 0] = float("nan")
    with pytest.raises(ExportError, match=r"up_proj cannot be merged.*not finite"):
        supernet.largest.save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())
