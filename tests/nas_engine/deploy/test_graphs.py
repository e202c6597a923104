"""What leaves as a graph is what OpenVINO and ONNX Runtime compute, each in a process of its own."""

import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer
from typer.testing import CliRunner

from nas_engine import Example, SuperNetwork, export, heal
from nas_engine.cli import app
from nas_engine.compression import quantize_model
from nas_engine.compression.grid import GridSettings, find_grid, quantize
from nas_engine.deploy.graph_runtimes import ONNX, OPENVINO
from nas_engine.deploy.rounding import Stored, integer_matrices
from nas_engine.errors import ExportError
from nas_engine.families.descriptions import family_of
from search_spaces import attention_heads, layer_skip, lora_rank, mlp_width
from tests.supernets import DECODERS, FAMILIES, random_adapters, supernetwork
from tests.tiny import LONG_ROPE, tiny_bert, tiny_llama, tiny_mistral, tiny_phi3, tiny_tokenizer

openvino = pytest.importorskip("openvino", reason="needs openvino: pip install nas-engine[openvino]")
onnx = pytest.importorskip("onnx", reason="needs onnx: pip install nas-engine[onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install nas-engine[onnx]")
from nas_engine.deploy.onnx_graph import nbits_tensors  # noqa: E402
from nas_engine.deploy.openvino_graph import compressed_constant  # noqa: E402
from tests.deployment_table import PAGE, graph_row  # noqa: E402

FORMATS = ("openvino", "onnx")
TEXTS = ("the water on", "a bird in 12 35")
EVERY_DIMENSION = (
    lora_rank((4,), ("q", "v", "up", "down"), skip_missing=True)
    + mlp_width((1.0, 2 / 3, 1 / 3))
    + attention_heads((1.0, 0.5))
    + layer_skip()
)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_says_where_every_dimension_leaves_at_once(family, tmp_path):
    line = graph_row(family, tmp_path)
    assert line in PAGE.read_text(encoding="utf-8"), "run python -m tests.deployment_table graphs"
    assert ("yes" in line) == (family in DECODERS)


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_configuration_computes_there_what_it_computes_in_transformers(format, tmp_path, data):
    supernet = random_adapters(supernetwork(tiny_llama(), EVERY_DIMENSION))
    configuration = {gene.name: data.draw(st.sampled_from(gene.values)) for gene in supernet.space.genes}
    subnet = supernet.subnetwork(configuration)
    made = subnet.export(format, tmp_path / "graph", weights="f32", texts=TEXTS)
    assert made.check.exact < 1e-3
    assert made.check.same_text


@pytest.mark.parametrize("format", FORMATS)
def test_a_model_without_any_attention_leaves_too(format, tmp_path):
    supernet = random_adapters(supernetwork(tiny_llama(), EVERY_DIMENSION))
    without = {f"layers.{layer}.attention.keep": 0 for layer in range(3)}
    subnet = supernet.subnetwork(dict(supernet.largest.configuration) | without)
    made = subnet.export(format, tmp_path / "graph", weights="f32", texts=TEXTS[:1])
    assert made.check.exact < 1e-3


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("family", ["llama", "gemma2", "bloom"])
def test_logits_are_of_the_last_token_or_of_all_where_they_are_asked_for(format, family, tmp_path):
    model = FAMILIES[family]()
    ids = np.array([[5, 9, 33, 60, 71]])
    with torch.no_grad():
        expected = model(torch.tensor(ids)).logits.numpy()
    for logits, shown in (("last", expected[:, -1:]), ("all", expected)):
        made = export(model, tiny_tokenizer(), tmp_path / logits, format=format, weights="f32", texts=TEXTS,
                      logits=logits)  # fmt: skip
        assert made.check.exact < 1e-3
        found = computed(made.file, format, ids)
        assert found.shape == shown.shape
        assert np.abs(found - shown).max() < 1e-4


def computed(folder, format: str, ids: np.ndarray) -> np.ndarray:
    """The graph's logits of `ids` behind nothing."""
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.shape[1])[None]}
    if format == "openvino":
        exactly = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
        model = openvino.Core().compile_model(folder / OPENVINO.file, "CPU", exactly)
        given["beam_idx"] = np.zeros(1, np.int32)
        known = {name for port in model.inputs for name in port.get_names()}
        request = model.create_infer_request()
        request.infer({name: value for name, value in given.items() if name in known})
        return np.array(request.get_tensor("logits").data)
    session = onnxruntime.InferenceSession(folder / ONNX.file, providers=["CPUExecutionProvider"])
    ports = {port.name: port.shape for port in session.get_inputs()}
    past = {
        name: np.zeros((1, shape[1], 0, shape[3]), np.float32)
        for name, shape in ports.items()
        if name.startswith("past")
    }
    return session.run(["logits"], {name: value for name, value in given.items() if name in ports} | past)[0]


def test_logits_of_what_is_no_graph_are_refused(tmp_path):
    for format, logits, message in (
        ("gguf", "all", "logits is of graphs"),
        ("onnx", "first", "choose one of last, all"),
    ):
        with pytest.raises(ExportError, match=message):
            export(tiny_llama(), tiny_tokenizer(), tmp_path / "file", format=format, logits=logits, check=False)


@pytest.mark.parametrize("format", FORMATS)
def test_windows_reach_as_far_as_in_transformers(format, tmp_path):
    model = tiny_mistral(sliding_window=8)
    made = export(model, tiny_tokenizer(), tmp_path / "graph", format=format, weights="f32",
                  texts=("the water on the bird in a tree " * 2,))  # fmt: skip
    assert made.check.exact < 1e-3


@pytest.mark.parametrize(("format", "weights"), [("openvino", "f16"), ("openvino", "int8"), ("openvino", "int4"),
                                                 ("onnx", "int8"), ("onnx", "int4")])  # fmt: skip
def test_rounded_weights_are_those_that_the_runtime_multiplies_by(format, weights, tmp_path):
    model = tiny_llama(intermediate_size=64, tie_word_embeddings=True)
    made = export(model, tiny_tokenizer(), tmp_path / "graph", format=format, weights=weights, texts=TEXTS)
    assert made.check.difference <= made.check.tolerance
    assert made.check.exact < 1e-3
    if weights == "int4":
        assert made.check.rounding > 2 * made.check.difference


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("inputs", "group"), [(64, 32), (64, 64), (48, 48), (96, 16), (40, 40)])
def test_integers_mean_the_same_in_both_runtimes(bits, symmetric, inputs, group):
    generator = torch.Generator().manual_seed(bits + group)
    weight = torch.randn(6, inputs, generator=generator) + 0.3
    grid = find_grid(weight, GridSettings(bits, group, symmetric), torch.float16)
    matrix = Stored(quantize(weight, grid), grid)
    expected = matrix.decoded.numpy()

    nothing = openvino.op.Parameter(openvino.Type.f32, openvino.PartialShape([1]))
    read = openvino.opset13.add(compressed_constant(matrix), nothing)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(openvino.Model([read], [nothing]), "CPU", settings)
    assert np.abs(compiled([np.zeros(1, np.float32)])[0] - expected).max() < 1e-6

    block = 16
    packed, scales, zero_points = nbits_tensors(matrix, block)
    tensors = {"B": packed, "scales": scales} | ({} if zero_points is None else {"zero_points": zero_points})
    node = onnx.helper.make_node("MatMulNBits", ["A", *tensors], ["Y"], domain="com.microsoft", bits=bits,
                                 block_size=block, K=inputs, N=6)  # fmt: skip
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("A", "Y")]
    held = [onnx.numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = onnx.helper.make_graph([node], "product", ports[:1], ports[1:], held)
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.abs(session.run(None, {"A": np.eye(inputs, dtype=np.float32)})[0].T - expected).max() < 1e-5


@pytest.mark.parametrize("format", FORMATS)
def test_a_quantized_sub_network_leaves_with_its_own_integers(format, tmp_path):
    model = tiny_llama(intermediate_size=64)
    ids = torch.arange(64)[None]
    quantization = quantize_model(model, [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}], 4, 32)
    supernet = SuperNetwork.from_pretrained(model, mlp_width((1.0, 0.5)), tiny_tokenizer(), quantization=quantization)
    made = supernet.largest.export(format, tmp_path / "graph", texts=TEXTS)
    assert made.weights is None
    assert made.check.rounding <= made.check.difference + 0.05  # nothing is rounded a second time but scales
    if format == "openvino":
        nodes = openvino.Core().read_model(made.file / OPENVINO.file).get_ops()
        kinds = [node.get_element_type().get_type_name() for node in nodes if node.get_type_name() == "Constant"]
        assert kinds.count("i4") == 3 * 7
    else:
        operators = [node.op_type for node in onnx.load(made.file / ONNX.file).graph.node]
        assert operators.count("MatMulNBits") == 3 * 7


def test_embeddings_that_are_the_output_too_are_stored_once(tmp_path):
    model = tiny_llama(tie_word_embeddings=True, vocab_size=2000, num_hidden_layers=1)
    stored = integer_matrices(model, family_of(model), "int8", {}, torch.float16)
    assert "lm_head" not in stored
    sizes = {
        format: export(model, tiny_tokenizer(), tmp_path / format, format=format, weights="int8", check=False).bytes
        for format in FORMATS
    }
    untied = {
        format: export(tiny_llama(tie_word_embeddings=False, vocab_size=2000, num_hidden_layers=1), tiny_tokenizer(),
                       tmp_path / f"{format}2", format=format, weights="int8", check=False).bytes
        for format in FORMATS
    }  # fmt: skip
    for format in FORMATS:
        assert untied[format] - sizes[format] > 0.9 * 2000 * 32


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (tiny_bert, "classifies texts and writes none"),
        (lambda: tiny_phi3(**LONG_ROPE), "type longrope compute long texts in another way"),
        (
            lambda: tiny_llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
            "type dynamic",
        ),
        (tiny_llama, "model.layers.0.mlp.down_proj has 48 inputs, and int4 stores groups of 32"),
    ],
)
@pytest.mark.parametrize("format", FORMATS)
def test_what_a_graph_cannot_express_is_refused_with_the_reason(model, message, format, tmp_path):
    with pytest.raises(ExportError, match=message):
        export(model(), tiny_tokenizer(), tmp_path / "graph", format=format, weights="int4", check=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", FORMATS)
def test_weights_of_another_format_are_refused(format, tmp_path):
    with pytest.raises(ExportError, match=f"weights is 'q8_0'; {format} stores f32"):
        export(tiny_llama(), tiny_tokenizer(), tmp_path / "graph", format=format, weights="q8_0")
    with pytest.raises(ExportError, match="tokenizer_file is of GGUF"):
        export(tiny_llama(), tiny_tokenizer(), tmp_path / "graph", format=format, tokenizer_file="a.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", FORMATS)
def test_a_graph_that_computes_something_else_is_not_left_behind(format, tmp_path):
    class Counting(type(tiny_llama())):
        """Computes otherwise whenever it is called again."""

        calls = 0

        def forward(self, *args, **kwargs):
            given = super().forward(*args, **kwargs)
            type(self).calls += 1
            given.logits = type(self).calls * given.logits
            return given

    model = tiny_llama()
    model.__class__ = Counting
    with pytest.raises(ExportError, match="differ by up to .* nats from transformers in fp32"):
        export(model, tiny_tokenizer(), tmp_path / "graph", format=format, weights="f32", texts=TEXTS)
    assert not list(tmp_path.iterdir())


def test_a_saved_folder_leaves_from_the_command_line_with_all_that_it_needs(tmp_path):
    supernet = random_adapters(supernetwork(tiny_llama(), EVERY_DIMENSION))
    configuration = {gene.name: gene.values[i % len(gene.values)] for i, gene in enumerate(supernet.space.genes)}
    supernet.subnetwork(configuration).save_pretrained(tmp_path / "compressed")
    folder = tmp_path / "graph"
    done = CliRunner().invoke(app, ["export", str(tmp_path / "compressed"), "--to", str(folder), "--format", "openvino",
                                    "--weights", "f32"])  # fmt: skip
    assert done.exit_code == 0, done.output
    about = json.loads((tmp_path / "graph.json").read_text())
    assert about["check"]["exact"] < 1e-3
    assert about["bytes"] == sum((folder / f"openvino_model.{kind}").stat().st_size for kind in ("xml", "bin"))
    assert AutoTokenizer.from_pretrained(folder)("the water").input_ids == tiny_tokenizer()("the water").input_ids
    config = AutoConfig.from_pretrained(folder)
    assert config.architectures == ["LlamaForCausalLM"]
    assert not hasattr(config, "subnetwork")


def test_sequences_of_a_batch_go_on_from_those_that_are_named(tmp_path):
    made = export(tiny_llama(), tiny_tokenizer(), tmp_path / "graph", format="openvino", weights="f32", check=False)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    model = openvino.Core().compile_model(made.file / OPENVINO.file, "CPU", settings).create_infer_request()
    prompts = np.array([[5, 9, 33], [60, 71, 5]])
    positions = np.tile(np.arange(3), (2, 1))
    given = {"input_ids": prompts, "attention_mask": np.ones((2, 3), np.int64), "position_ids": positions,
             "beam_idx": np.arange(2, dtype=np.int32)}  # fmt: skip
    model.infer(given)
    behind = {"input_ids": np.array([[7], [7]]), "attention_mask": np.ones((2, 4), np.int64),
              "position_ids": np.array([[3], [3]]), "beam_idx": np.array([1, 0], np.int32)}  # fmt: skip
    swapped = model.infer(behind)["logits"]
    with torch.no_grad():
        expected = tiny_llama()(torch.tensor([[60, 71, 5, 7], [5, 9, 33, 7]])).logits[:, -1:]
    assert np.abs(swapped - expected.numpy()).max() < 1e-4


def test_a_graph_says_nothing_of_where_it_was_made(tmp_path):
    for format in FORMATS:
        export(tiny_llama(), tiny_tokenizer(), tmp_path / format, format=format, weights="f32", check=False)
        for file in (tmp_path / format).iterdir():
            assert b"/site-packages/" not in file.read_bytes()


def test_weights_that_do_not_fit_into_one_file_lie_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr("nas_engine.deploy.onnx_graph.IN_ONE_FILE", 1000)
    made = export(tiny_llama(), tiny_tokenizer(), tmp_path / "graph", format="onnx", weights="f32", texts=TEXTS)
    assert made.check.exact < 1e-3
    assert (made.file / "model.onnx_data").stat().st_size > 1000


def test_a_healed_model_is_checked_on_prompts_that_it_learned_from(tmp_path):
    supernet = random_adapters(supernetwork(tiny_llama(), EVERY_DIMENSION))
    healed = heal(supernet.largest, [Example("the water", " on")], steps=1, batch_size=1, progress=False)
    assert healed.export("onnx", tmp_path / "graph", weights="f32").check.exact < 1e-3
