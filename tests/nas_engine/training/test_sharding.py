"""A base held in parts by two processes computes what it computes whole, and is itself again afterwards."""

import json
from collections.abc import Sequence

import pytest

from nas_engine import build_database, train
from nas_engine.compression.database import LayerDatabase
from nas_engine.training import Teacher, heal
from search_spaces import lora_rank, weight_bits
from tests.processes import free_port, together
from tests.ranks import EXAMPLES, STEPS
from tests.shards import NETWORKS, compared, interrupted
from tests.supernets import CALIBRATION, EVERY_FAMILY, SPACE, supernetwork
from tests.tiny import tiny_llama

FEW = ("gpt2", "packed")  # weights as (inputs, outputs), tied embeddings, last states that are a view; integers


def require_same(folder, names: Sequence[str]) -> None:
    together(compared, free_port(), folder, names)
    for rank in range(2):
        told = json.loads((folder / f"compared-{rank}.json").read_text())
        assert set(told) == set(names)
        for name, found in told.items():
            held = found.pop("held")
            assert all(found.values()), (rank, name, found)
            assert 0.45 < held < 0.55, (rank, name, held)


def test_network_in_parts_computes_exactly_what_it_computes_whole(tmp_path) -> None:
    require_same(tmp_path, FEW)


@pytest.mark.slow
def test_every_network_computes_in_parts_exactly_what_it_computes_whole(tmp_path) -> None:
    require_same(tmp_path, [name for name in (*EVERY_FAMILY, *NETWORKS) if name not in FEW])


def test_network_that_an_error_left_in_parts_is_refused(tmp_path) -> None:
    together(interrupted, free_port(), tmp_path)
    for rank in range(2):
        first, then = json.loads((tmp_path / f"interrupted-{rank}.json").read_text())
        assert first == "the disk is full"
        assert "the network is in parts" in then
        assert "load it anew" in then


def test_sharding_by_accelerate_is_refused_before_the_first_step(monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    supernet = supernetwork(tiny_llama(), SPACE)
    with pytest.raises(ValueError, match=r"accelerate is configured to shard.*give sharded=True"):
        train(supernet, EXAMPLES, steps=1, **STEPS)


def test_sharding_in_one_process_is_refused_before_the_first_step() -> None:
    supernet = supernetwork(tiny_llama(), SPACE)
    with pytest.raises(ValueError, match="this one was started alone"):
        train(supernet, EXAMPLES, steps=1, sharded=True, **STEPS)
    with pytest.raises(ValueError, match="this one was started alone"):
        heal(supernet.largest, EXAMPLES, steps=1, sharded=True, teacher=Teacher.of(supernet), **STEPS)


def test_sharding_is_refused_where_the_bits_of_weights_vary(tmp_path, monkeypatch) -> None:
    build_database(tiny_llama(), CALIBRATION, tmp_path, bits=(16, 8), sparsities=(0.0,), group_size=8)
    space = lora_rank((4, 2)) + weight_bits((16, 8))
    supernet = supernetwork(tiny_llama(), space, adapter_mode="quantized", database=LayerDatabase(tmp_path))
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="this space varies the bits or zeros of weights"):
        train(supernet, EXAMPLES, steps=1, sharded=True, **STEPS)
