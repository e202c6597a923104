"""Sub-networks timed in OpenVINO and ONNX Runtime."""

import pytest

from evaluators import Latency, LatencyTable
from nas_engine.deploy.graph_latency import OnnxRuntime, OpenVino
from search_spaces import attention_heads, layer_skip, mlp_width
from tests.supernets import supernetwork
from tests.tiny import tiny_llama

pytest.importorskip("openvino", reason="needs openvino: pip install nas-engine[openvino]")
pytest.importorskip("onnx", reason="needs onnx: pip install nas-engine[onnx]")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install nas-engine[onnx]")
RUNTIMES = {"openvino": OpenVino, "onnxruntime": OnnxRuntime}
pytestmark = pytest.mark.parametrize("name", RUNTIMES)


@pytest.fixture(scope="module")
def supernet():
    space = mlp_width((1.0, 0.25)) + attention_heads((1.0, 0.5)) + layer_skip()
    return supernetwork(tiny_llama(hidden_size=256, head_dim=64, intermediate_size=2048, num_hidden_layers=2), space)


@pytest.fixture(scope="module")
def smaller(supernet):
    genes = supernet.space.genes
    return supernet.subnetwork({g.name: g.values[-1] if g.name.endswith("keep") else g.values[0] for g in genes})


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_less_work_takes_less_time(name, phase, supernet, smaller):
    latency = Latency(runtime=name, phase=phase, tokens=96, repeats=6, threads=1, reference=supernet.largest,
                      wait_seconds=600)  # fmt: skip
    report = latency.report(smaller)
    assert 0 < report.ratio < 0.95
    assert report.median_ms > 0


def test_a_table_is_calibrated_on_the_runtime_and_says_so(name, supernet):
    latency = Latency(runtime=name, tokens=16, repeats=2, warmup=1, threads=1, dtype="int8", wait_seconds=600)
    table = LatencyTable.calibrate(supernet, latency, levels=2, samples=2)
    assert table.predict(supernet.largest) > 0
    assert table.settings()["runtime"] == name
    assert latency.settings()["version"]


def test_sizes_have_fingerprints_of_their_own(name, supernet, smaller):
    runtime = RUNTIMES[name]()
    first, again, other = (
        runtime.fingerprint(runtime.deployed(subnet, "f32")) for subnet in (supernet.largest, supernet.largest, smaller)
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dtype": "q8_0"}, "dtype is 'q8_0'; .* stores f32"),
        ({"device": "cuda"}, "timed on the cpu"),
    ],
)
def test_what_a_runtime_cannot_time_is_refused_before_anything_is_timed(name, given, message):
    with pytest.raises(ValueError, match=message):
        Latency(runtime=name, **given)
