"""Sub-networks timed where they are deployed: in llama.cpp, and in a runtime of somebody else's."""

import pytest

from evaluators import Latency, LatencyTable
from search_spaces import attention_heads, layer_skip, mlp_width
from tests.supernets import supernetwork
from tests.tiny import tiny_llama

pytest.importorskip("gguf", reason="needs gguf: pip install nas-engine[llamacpp]")
pytest.importorskip("xllamacpp", reason="needs xllamacpp: pip install nas-engine[llamacpp]")


@pytest.fixture(scope="module")
def supernet():
    space = mlp_width((1.0, 0.25)) + attention_heads((1.0, 0.5)) + layer_skip()
    return supernetwork(tiny_llama(hidden_size=256, head_dim=64, intermediate_size=2048, num_hidden_layers=4), space)


@pytest.fixture(scope="module")
def smaller(supernet):
    genes = supernet.space.genes
    return supernet.subnetwork({g.name: g.values[-1] if g.name.endswith("keep") else g.values[0] for g in genes})


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_less_work_takes_less_time_in_llama_cpp(supernet, smaller, phase):
    latency = Latency(runtime="llama.cpp", phase=phase, tokens=96, repeats=6, threads=1, reference=supernet.largest,
                      wait_seconds=600)  # fmt: skip
    report = latency.report(smaller)
    assert 0 < report.ratio < 0.95  # a fifth of the multiplications
    assert latency.unit == "× reference"
    assert report.median_ms > 0


def test_a_table_is_calibrated_on_the_runtime_and_says_so(supernet, tmp_path):
    latency = Latency(runtime="llama.cpp", tokens=16, repeats=2, warmup=1, threads=1, dtype="q8_0", wait_seconds=600)
    table = LatencyTable.calibrate(supernet, latency, levels=2, samples=2)
    assert table.predict(supernet.largest) > 0
    assert table.settings()["runtime"] == "llama.cpp"
    assert LatencyTable.load(table.save(tmp_path / "table.json")) == table
    assert len(table.validate([supernet.largest], repeats=2)) == 1


def test_settings_hold_what_changes_a_time(supernet):
    here, there = Latency(threads=1), Latency(threads=1, runtime="llama.cpp", dtype="q8_0")
    assert there.settings()["runtime"] == "llama.cpp"
    assert there.settings()["version"]
    assert here.settings() != there.settings()
    assert "runtime" not in here.settings()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"runtime": "llama"}, "no runtime is named 'llama'; installed are"),
        ({"runtime": "llama.cpp", "batch": 2}, "batch is 2"),
        ({"runtime": "llama.cpp", "dtype": "float16"}, "dtype is 'float16'; llama.cpp stores f32, f16"),
        ({"runtime": "llama.cpp", "device": "cuda"}, "timed on the cpu"),
    ],
)
def test_what_a_runtime_cannot_time_is_refused_before_anything_is_timed(given, message):
    with pytest.raises(ValueError, match=message):
        Latency(**given)
