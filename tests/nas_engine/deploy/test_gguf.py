"""What leaves as GGUF is what llama.cpp computes: stock llama.cpp, in a process of its own."""

import json
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from evaluators import Question
from nas_engine import Example, SuperNetwork, export, heal
from nas_engine.cli import app
from nas_engine.compression import quantize_model
from nas_engine.compression.grid import Grid, GridSettings, dequantize, quantize
from nas_engine.deploy import export_folder
from nas_engine.errors import ExportError, ModelError
from search_spaces import attention_heads, layer_skip, lora_rank, mlp_width
from tests.supernets import random_adapters, supernetwork
from tests.tiny import (
    tiny_bloom,
    tiny_gemma2,
    tiny_gemma3,
    tiny_gpt2,
    tiny_llama,
    tiny_mistral,
    tiny_mpt,
    tiny_opt,
    tiny_phi3,
    tiny_qwen2,
    tiny_qwen3,
    tiny_tokenizer,
)

gguf = pytest.importorskip("gguf", reason="needs gguf: pip install nas-engine[llamacpp]")
pytest.importorskip("xllamacpp", reason="needs xllamacpp: pip install nas-engine[llamacpp]")
from nas_engine.deploy.gguf_encoding import dequantized, encoded, on_grid  # noqa: E402
from tests.deployment_table import PAGE, phi3_tokenizer, table  # noqa: E402

TEXTS = ("the water on", "a bird in 12 35")
EVERY_DIMENSION = (
    lora_rank((4,), ("q", "v", "up", "down"))
    + mlp_width((1.0, 2 / 3, 1 / 3))
    + attention_heads((1.0, 0.5))
    + layer_skip()
)
UNEVEN = {"llama": (tiny_llama, "deci"), "mistral": (tiny_mistral, "deci"), "qwen2": (tiny_qwen2, "deci"),
          "qwen3": (lambda: tiny_qwen3(tie_word_embeddings=True), "openelm")}  # fmt: skip


@pytest.mark.parametrize(
    "make",
    [tiny_llama, tiny_mistral, tiny_qwen2, tiny_qwen3, tiny_gemma2, tiny_gemma3, tiny_gpt2, tiny_bloom, tiny_mpt],
)
def test_a_whole_model_computes_in_llama_cpp_what_it_computes_in_transformers(make, tmp_path):
    made = export(make(), tiny_tokenizer(), tmp_path / "model.gguf", weights="f32", texts=TEXTS)
    assert made.check.exact < 5e-3
    assert made.check.same_text
    assert made.check.positions > 10
    assert made.bytes == (tmp_path / "model.gguf").stat().st_size


def test_phi3_with_fused_projections_leaves_too(tmp_path):
    tokenizer = phi3_tokenizer()
    made = export(tiny_phi3(vocab_size=len(tokenizer)), tokenizer, tmp_path / "m.gguf", weights="f32", texts=TEXTS)
    assert made.check.exact < 1e-3


def test_rope_of_llama_3_leaves_as_factors(tmp_path):
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32}  # fmt: skip
    long = "the water on the bird in a tree " * 4
    for parameters in (rope, {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}):
        made = export(
            tiny_llama(rope_parameters=parameters), tiny_tokenizer(), tmp_path / "m.gguf", texts=(long,), weights="f32"
        )
        assert made.check.exact < 1e-3


@pytest.mark.parametrize("family", UNEVEN)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_configuration_computes_in_llama_cpp_what_it_computes_in_transformers(family, tmp_path, data):
    make, architecture = UNEVEN[family]
    supernet = random_adapters(supernetwork(make(), EVERY_DIMENSION))
    configuration = {gene.name: data.draw(st.sampled_from(gene.values)) for gene in supernet.space.genes}
    subnet = supernet.subnetwork(configuration)
    made = subnet.export("gguf", tmp_path / "subnet.gguf", weights="f32", texts=TEXTS)
    assert made.check.exact < 1e-3
    assert made.check.same_text
    even = "llama" if family == "mistral" else make().config.model_type  # where all layers are drawn alike
    assert made.architecture in (architecture, even)


def test_attention_before_an_mlp_that_is_left_out_is_not_lost(tmp_path):
    # llama.cpp goes on to the next layer where n_ff is 0, before it has stored what attention gave.
    supernet = random_adapters(supernetwork(tiny_llama(), EVERY_DIMENSION))
    whole = dict(supernet.largest.configuration)
    subnet = supernet.subnetwork(whole | {"layers.1.mlp.keep": 0})
    made = subnet.export("gguf", tmp_path / "m.gguf", weights="f32", texts=TEXTS)
    assert made.check.exact < 1e-3
    widths = gguf.GGUFReader(made.file).fields["deci.feed_forward_length"].contents()
    assert min(widths) == 32


@pytest.mark.parametrize("weights", ["f16", "bf16", "q8_0", "q4_0"])
def test_rounded_weights_are_those_that_llama_cpp_multiplies_by(weights, tmp_path):
    model = tiny_llama(intermediate_size=64)
    made = export(model, tiny_tokenizer(), tmp_path / "m.gguf", weights=weights, texts=TEXTS)
    assert made.check.difference <= made.check.tolerance
    assert made.check.exact < 1e-3
    if weights in ("bf16", "q4_0"):
        assert made.check.rounding > made.check.difference


def test_a_row_that_is_no_whole_number_of_blocks_is_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(ExportError, match=r"model.layers.0.mlp.down_proj has 48 inputs.*blocks of 32"):
        export(tiny_llama(), tiny_tokenizer(), tmp_path / "m.gguf", weights="q8_0", texts=TEXTS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("bits", "symmetric", "kind"), [(4, True, "Q4_0"), (8, True, "Q8_0"), (4, False, "Q4_1")])
@given(seed=st.integers(0, 1000), group=st.sampled_from([32, 64]))
@settings(max_examples=15, deadline=None)
def test_integers_on_a_grid_are_kept(bits, symmetric, kind, seed, group):
    generator = torch.Generator().manual_seed(seed)
    kinds = GridSettings(bits, group, symmetric)
    scale = torch.rand(3, 128 // group, generator=generator).half().float() + 2**-6
    scale = scale.half().float()  # GGUF keeps scales in fp16
    least, largest = (kinds.smallest, kinds.largest + 1) if not symmetric else (0, 1)
    zero_point = torch.randint(least, largest, scale.shape, generator=generator, dtype=torch.int8)
    grid = Grid(kinds, scale, zero_point)
    weight = dequantize(
        torch.randint(kinds.smallest, kinds.largest + 1, (3, 128), generator=generator, dtype=torch.int8), grid
    )
    stored = on_grid(weight, grid, "a layer")
    assert stored[1].name == kind
    # Of an asymmetric grid the least value is rounded to fp16 as well.
    tolerance = 0.0 if symmetric else float(scale.max()) * 24 * 2**-11
    assert (dequantized(stored) - weight).abs().max() <= tolerance
    assert torch.equal(quantize(dequantized(stored), grid), quantize(weight, grid))


def test_integers_that_have_no_blocks_are_refused():
    grid = Grid(GridSettings(8, 32, False), torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int8))
    with pytest.raises(ExportError, match="8 bits in asymmetric groups of 32"):
        on_grid(torch.zeros(1, 32), grid, "layers.0.up")
    grid = Grid(GridSettings(4, 16, True), torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.int8))
    with pytest.raises(ExportError, match="groups of 16"):
        on_grid(torch.zeros(1, 32), grid, "layers.0.up")


def test_a_quantized_sub_network_leaves_with_its_own_integers(tmp_path):
    model = tiny_llama(intermediate_size=64)
    ids = torch.arange(64)[None]
    quantization = quantize_model(model, [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}], 4, 32)
    supernet = SuperNetwork.from_pretrained(model, mlp_width((1.0, 0.5)), tiny_tokenizer(), quantization=quantization)
    subnet = supernet.subnetwork({gene.name: gene.values[-1] for gene in supernet.space.genes})
    made = subnet.export("gguf", tmp_path / "m.gguf", texts=TEXTS)
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(made.file).tensors}
    assert kinds["blk.0.ffn_down.weight"] == "Q4_0"
    assert kinds["token_embd.weight"] == "F16"
    assert made.check.rounding <= made.check.difference + 0.05  # nothing is rounded a second time but scales


def test_encoding_agrees_with_the_layout_of_q8_0():
    row = torch.linspace(-1, 1, 32)[None]
    array, _ = encoded(row, "q8_0")
    scale = struct.unpack("<e", array[0, :2].tobytes())[0]
    integers = torch.from_numpy(array[0, 2:].view("int8").copy()).float()
    assert torch.allclose(integers * scale, row[0], atol=scale / 2 + 1e-6)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: tiny_opt(), "models of type 'opt' are not written as GGUF; bloom,"),
        (lambda: tiny_llama(hidden_act="gelu"), "activation is 'gelu'; llama.cpp's llama has 'silu' alone"),
        (
            lambda: tiny_llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
            "type 'dynamic'",
        ),
    ],
)
def test_what_llama_cpp_cannot_express_is_refused_with_the_reason(model, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        export(model(), tiny_tokenizer(), tmp_path / "m.gguf", check=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [tiny_gemma2, tiny_phi3, tiny_gpt2, tiny_qwen3])
def test_layers_that_differ_are_refused_where_llama_cpp_has_one_size(make, tmp_path):
    supernet = supernetwork(make(), mlp_width((1.0, 0.5), layers_per_gene=1))
    genes = [gene.name for gene in supernet.space.genes]
    subnet = supernet.subnetwork(dict(supernet.largest.configuration) | {genes[0]: supernet.space.genes[0].values[0]})
    with pytest.raises(ExportError, match="same sizes"):
        subnet.export("gguf", tmp_path / "m.gguf", check=False)
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_is_not_left_behind(tmp_path):
    class Doubled(type(tiny_llama())):
        """Not what its configuration says."""

        def forward(self, *args, **kwargs):
            given = super().forward(*args, **kwargs)
            given.logits = 2 * given.logits
            return given

    model = tiny_llama()
    model.__class__ = Doubled
    with pytest.raises(ExportError, match="differ by up to .* nats from transformers in fp32"):
        export(model, tiny_tokenizer(), tmp_path / "m.gguf", weights="f32", texts=TEXTS)
    assert not list(tmp_path.iterdir())


def pieces_tokenizer(before: str) -> PreTrainedTokenizerFast:
    """A BPE as SentencePiece's are in tokenizer.json: of pieces with spaces in them, bytes for what they cannot say."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Replace(" ", "▁")
    texts = ["the water on the bird in a tree " * 3, "a bird in 12 35 is there", "def area(width): return width"]
    special = ["<unk>", "<s>", "</s>"]
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=350, special_tokens=[*special, *(f"<0x{i:02X}>" for i in range(256))], show_progress=False
        ),
    )
    state = json.loads(made.to_str())
    state["model"] |= {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
    state["added_tokens"] = state["added_tokens"][: len(special)]  # bytes are pieces like any other
    made = Tokenizer.from_str(json.dumps(state))
    if before == "prepended":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif before == "metaspace":
        made.normalizer = None
        made.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    elif before == "split words":
        made.normalizer = None
        made.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=True)
    elif before == "gemma":
        made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("before", ["prepended", "metaspace", "gemma"])
def test_llama_cpp_reads_sentencepiece_tokenizers_as_transformers_does(before: str, tmp_path) -> None:
    tokenizer = pieces_tokenizer(before)
    model = tiny_llama(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2)
    made = export(model, tokenizer, tmp_path / "m.gguf", weights="f32")  # texts of four kinds, tokens compared
    assert made.check.exact < 1e-3
    fields = gguf.GGUFReader(made.file).fields
    assert fields["tokenizer.ggml.model"].contents() == "llama"
    assert fields["tokenizer.ggml.add_space_prefix"].contents() is (before != "gemma")


def test_a_sentencepiece_tokenizer_that_splits_text_otherwise_is_refused(tmp_path) -> None:
    tokenizer = pieces_tokenizer("split words")
    model = tiny_llama(vocab_size=len(tokenizer))
    with pytest.raises(ExportError, match="changes text in a way that is not written for llama.cpp"):
        export(model, tokenizer, tmp_path / "m.gguf", check=False)
    assert not list(tmp_path.iterdir())


def test_the_tokenizer_can_be_copied_from_the_base_models_file(tmp_path):
    export(tiny_llama(), tiny_tokenizer(), tmp_path / "base.gguf", weights="f32", texts=TEXTS)
    again = export(tiny_llama(1), tiny_tokenizer(), tmp_path / "m.gguf", tokenizer_file=tmp_path / "base.gguf",
                   weights="f32", texts=TEXTS)  # fmt: skip
    first, second = (gguf.GGUFReader(file).fields for file in (tmp_path / "base.gguf", again.file))
    names = [name for name in first if name.startswith("tokenizer.")]
    assert len(names) > 5
    assert all(first[name].contents() == second[name].contents() for name in names)
    (tmp_path / "no.gguf").write_text("nothing")
    with pytest.raises(ExportError, match="is no GGUF file"):
        export(tiny_llama(), tiny_tokenizer(), tmp_path / "m2.gguf", tokenizer_file=tmp_path / "no.gguf", check=False)


def test_a_healed_model_is_checked_on_prompts_that_it_learned_from(tmp_path):
    supernet = random_adapters(supernetwork(tiny_llama(), EVERY_DIMENSION))
    pairs = [Example("the water", " on"), Example("a bird", " in")]
    healed = heal(supernet.largest, pairs, steps=1, batch_size=2, progress=False)
    assert healed.texts == ("the water", "a bird")
    assert healed.export("gguf", tmp_path / "m.gguf", weights="f32").check.exact < 1e-3


def test_a_saved_folder_leaves_from_the_command_line(tmp_path):
    supernet = random_adapters(supernetwork(tiny_llama(), EVERY_DIMENSION))
    configuration = {gene.name: gene.values[i % len(gene.values)] for i, gene in enumerate(supernet.space.genes)}
    supernet.subnetwork(configuration).save_pretrained(tmp_path / "compressed")
    (tmp_path / "texts.txt").write_text("the water on\n\na bird\n")
    file = tmp_path / "m.gguf"
    done = CliRunner().invoke(app, ["export", str(tmp_path / "compressed"), "--to", str(file), "--weights", "f32",
                                    "--texts", str(tmp_path / "texts.txt")])  # fmt: skip
    assert done.exit_code == 0, done.output
    about = json.loads((tmp_path / "m.gguf.json").read_text())
    assert about["check"]["exact"] < 1e-3
    assert about["bytes"] == file.stat().st_size
    refused = CliRunner().invoke(app, ["export", str(tmp_path), "--to", str(file)])
    assert refused.exit_code == 1
    assert "holds no model" in refused.stderr


@pytest.mark.slow
def test_the_table_of_families_and_dimensions_says_what_loads():
    assert "\n".join(table()) in PAGE.read_text(encoding="utf-8"), "run python -m tests.deployment_table"


def test_texts_longer_than_the_model_reads_are_cut(tmp_path):
    model = tiny_llama(max_position_embeddings=32)
    made = export(model, tiny_tokenizer(), tmp_path / "m.gguf", weights="f32", texts=("the water on " * 20,))
    assert made.check.exact < 1e-3


def test_a_check_without_a_text_is_refused(tmp_path):
    with pytest.raises(ExportError, match="texts is empty"):
        export(tiny_llama(), tiny_tokenizer(), tmp_path / "m.gguf", texts=())


def test_a_folder_that_lacks_weights_is_refused_and_not_filled_with_random_ones(tmp_path):
    supernet = random_adapters(supernetwork(tiny_llama(), EVERY_DIMENSION))
    configuration = dict(supernet.largest.configuration) | {"layers.1.mlp.keep": 0}
    folder = supernet.subnetwork(configuration).save_pretrained(tmp_path / "compressed")
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights, such as model\.norm\.weight"):
        export_folder(folder, tmp_path / "m.gguf", weights="f32")
    assert not (tmp_path / "m.gguf").exists()


def test_a_run_folders_chosen_model_is_checked_on_its_questions_as_it_reads_them(tmp_path):
    supernet = random_adapters(supernetwork(tiny_llama(), EVERY_DIMENSION))
    supernet.largest.save_pretrained(tmp_path / "run" / "compressed")
    summary = tmp_path / "run" / "summary.json"
    summary.write_text(json.dumps({"answers": [{"question": "the water", "right": "on", "said": "in"}], "front": 3}))
    asked = export_folder(tmp_path / "run", tmp_path / "m.gguf", weights="f32").check
    prompt = Question("the water", ("on", "in"), 0).prompt
    given = export_folder(tmp_path / "run", tmp_path / "m.gguf", weights="f32", texts=[prompt]).check
    assert asked == given
    assert asked != export_folder(tmp_path / "run", tmp_path / "m.gguf", weights="f32", texts=["the water"]).check
    summary.write_text('{"answers": 3}')
    with pytest.raises(ExportError, match="summary.json is damaged"):
        export_folder(tmp_path / "run", tmp_path / "m.gguf")
