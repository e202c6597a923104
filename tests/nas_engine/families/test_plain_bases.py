"""Only what a super-network understands becomes its base; everything else is refused before work begins."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrize, prune

from nas_engine.compression.quantization import quantize_model
from nas_engine.compression.sparsification import sparsify
from nas_engine.errors import CheckpointError, CompressionError, ExportError, FamilyError, ModelError
from nas_engine.models import load_model
from nas_engine.supernet import SuperNetwork
from nas_engine.training import Healed
from search_spaces import layer_skip, lora_rank, mlp_width
from tests.supernets import CALIBRATION, logits, random_adapters, supernetwork
from tests.tiny import tiny_llama, tiny_tokenizer


def peft_in_place(wrapped: bool = False):
    base = tiny_llama()
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    return model if wrapped else base


def pruned():
    model = tiny_llama()
    prune.l1_unstructured(model.model.layers[0].mlp.up_proj, "weight", 0.5)
    return model


def parametrized():
    model = tiny_llama()
    parametrize.register_parametrization(model.model.layers[1].mlp.up_proj, "weight", nn.Identity())
    return model


def hooked():
    model = tiny_llama()
    model.model.layers[0].self_attn.q_proj.register_forward_hook(lambda module, args, output: 2 * output)
    return model


class Scaled(nn.Linear):
    """A linear layer that is more than its weight."""

    def forward(self, x):
        return 2 * super().forward(x)


def subclassed():
    model = tiny_llama()
    model.model.layers[0].self_attn.o_proj.__class__ = Scaled
    return model


def offloaded():
    model = tiny_llama()
    model.model.layers[0].mlp.down_proj.to("meta")
    return model


def headless():
    model = tiny_llama()
    model.lm_head.to("meta")
    return model


def shortened():
    supernet = supernetwork(tiny_llama(), lora_rank((4,)) + layer_skip(("attention",), (1,)))
    return supernet.subnetwork(supernet.space.configuration(supernet.space.smallest)).extract()


REFUSED = {
    "adapters put in by PEFT": (peft_in_place, r"merge adapters first: model.merge_and_unload\(\)"),
    "a PEFT model": (lambda: peft_in_place(wrapped=True), "PeftModel, and not one of transformers' own"),
    "pruning masks": (pruned, "layers.0.up computes its weight, as a pruning mask does"),
    "a parametrization": (parametrized, "mlp.up_proj has a parametrized weight"),
    "a hook": (hooked, "layers.0.q has a hook on its forward pass"),
    "a subclass": (subclassed, "layers.0.o is a .*Scaled, whose weight is not all that it computes with"),
    "offloaded weights": (offloaded, "layers.0.mlp.down_proj.weight is not in memory.*load the model whole"),
    "an offloaded head": (headless, "lm_head.weight is not in memory"),
    "a block left out": (shortened, "layers.1.q is not there; a model with blocks left out is no base"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_base_that_is_more_than_its_weights_is_refused(what: str) -> None:
    make, message = REFUSED[what]
    with pytest.raises(FamilyError, match=message):
        supernetwork(make(), lora_rank((4,), ("q", "up", "down")))


@pytest.mark.parametrize("what", ["adapters put in by PEFT", "pruning masks", "a subclass"])
def test_base_that_is_more_than_its_weights_is_not_compressed(what: str) -> None:
    make, message = REFUSED[what]
    with pytest.raises(FamilyError, match=message):
        sparsify(make(), CALIBRATION, 0.5)
    with pytest.raises(FamilyError, match=message):
        quantize_model(make(), CALIBRATION, group_size=16)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_adapter_whose_training_changed_the_base_is_refused(tmp_path, start: str) -> None:
    settings = LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj"], init_lora_weights=start)
    get_peft_model(tiny_llama(), settings).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"began as '{start}', which changes the base model too"):
        supernetwork(tiny_llama()).load_adapter(tmp_path)


@pytest.mark.parametrize(("field", "value"), [("alora_invocation_tokens", [5]), ("lora_bias", True), ("unheard_of", 3)])
def test_adapter_with_a_setting_that_is_not_understood_is_refused(tmp_path, field: str, value) -> None:
    get_peft_model(tiny_llama(), LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(CheckpointError, match=field):
        supernetwork(tiny_llama()).load_adapter(tmp_path)


def test_adapter_takes_the_place_of_all_that_was_trained_before(tmp_path) -> None:
    base = tiny_llama()
    settings = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    model = get_peft_model(base, settings).eval()
    expected = logits(model)
    model.save_pretrained(tmp_path)
    supernet = random_adapters(supernetwork(tiny_llama()))
    supernet.load_adapter(tmp_path)
    torch.testing.assert_close(logits(supernet.largest.model), expected, atol=1e-4, rtol=1e-4)


def saved(folder, model=None):
    (model or tiny_llama()).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder / "model.safetensors"


def test_checkpoint_that_lacks_weights_or_has_others_is_refused(tmp_path) -> None:
    file = saved(tmp_path)
    whole = load_file(file)
    load_model(tmp_path)
    without = {name: tensor for name, tensor in whole.items() if "layers.1.mlp.up" not in name}
    save_file(without, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"it lacks 1 weights, such as model.layers.1.mlp.up_proj.weight"):
        load_model(tmp_path)
    save_file(whole | {"model.layers.9.mlp.up_proj.weight": torch.zeros(2, 2)}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="it has besides 1 weights, such as model.layers.9"):
        load_model(tmp_path)


def test_checkpoint_of_other_shapes_is_refused(tmp_path) -> None:
    saved(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"intermediate_size": 2 * config["intermediate_size"]}))
    with pytest.raises(ModelError, match=r"it has in other shapes \d+ weights, such as model.layers.0.mlp.down_proj"):
        load_model(tmp_path)


def test_our_own_compressed_model_is_refused_as_a_base(tmp_path) -> None:
    supernet = supernetwork(tiny_llama(), lora_rank((4,)) + mlp_width((1.0, 0.5)) + layer_skip(("attention",), (1,)))
    supernet.subnetwork(supernet.space.configuration(supernet.space.smallest)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a compressed model whose layers differ, which is no base"):
        load_model(tmp_path)


def rewritten(file, **changed):
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def truncated(file, fraction: float):
    file.write_bytes(file.read_bytes()[: int(fraction * file.stat().st_size)])


FOREIGN = {"gptq": {"bits": 4, "group_size": 128}, "awq": {"bits": 4, "version": "gemm"}, "fp8": {}, "mine": {}}
BROKEN = {
    **{
        name: (
            lambda folder, name=name: rewritten(
                folder / "config.json", quantization_config=FOREIGN[name] | {"quant_method": name}
            ),
            f"is quantized in the format '{name}', which cannot be read; give the model that it was made from",
        )
        for name in FOREIGN
    },
    "bitsandbytes": (
        lambda folder: rewritten(folder / "config.json", quantization_config={"load_in_4bit": True}),
        "is quantized in the format 'bitsandbytes'",
    ),
    "a quantization that is no object": (
        lambda folder: rewritten(folder / "config.json", quantization_config=[4]),
        "no model loads from|is quantized in the format",
    ),
    "half of the weights' file": (lambda folder: truncated(folder / "model.safetensors", 0.5), "no model loads from"),
    "an empty file of weights": (lambda folder: truncated(folder / "model.safetensors", 0), "no model loads from"),
    "half of the configuration": (lambda folder: truncated(folder / "config.json", 0.5), "no model loads from"),
    **{
        f"{text} as configuration": (
            lambda folder, text=text: (folder / "config.json").write_text(text),
            "no model loads from",
        )
        for text in ("[1]", '"llama"', "null", "5", "{}")
    },
    "heads that do not divide": (
        lambda folder: rewritten(folder / "config.json", num_attention_heads=3),
        "no model loads from.*not a multiple of the number of attention heads",
    ),
    "a size in words": (
        lambda folder: rewritten(folder / "config.json", num_attention_heads="four"),
        "no model loads from",
    ),
    "an unknown activation": (lambda folder: rewritten(folder / "config.json", hidden_act="mine"), "no model loads"),
    "a list as tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("[]"), "no model loads from"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_folder_that_holds_no_readable_model_is_refused(tmp_path, what: str) -> None:
    break_it, message = BROKEN[what]
    saved(tmp_path)
    load_model(tmp_path)
    break_it(tmp_path)
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path)
    with pytest.raises(ModelError, match=message):
        SuperNetwork.from_pretrained(tmp_path, lora_rank((4,)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("compress", [sparsify, quantize_model])
def test_compression_that_meets_a_weight_that_is_not_finite_changes_nothing(compress, value: float) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[3, 4] = value
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = {"group_size": 16} if compress is quantize_model else {}
    with pytest.raises(CompressionError, match=r"the weight of layers.2.up has 1 of 1536 numbers that are not finite"):
        compress(model, CALIBRATION, **settings)
    after = model.state_dict()
    assert all(torch.equal(before[name].nan_to_num(), after[name].nan_to_num()) for name in before)


def test_compression_whose_texts_overflow_is_refused() -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.gate_proj.weight.fill_(3e38)
    with pytest.raises(CompressionError, match=r"layers.1.down reads numbers that are not finite"):
        quantize_model(model, CALIBRATION, group_size=16)


@pytest.mark.parametrize("adapter_mode", ["plain", "masked", "quantized"])
@pytest.mark.parametrize("where", ["weight", "lora_A", "lora_B"])
def test_merge_that_meets_a_weight_that_is_not_finite_is_refused(tmp_path, adapter_mode: str, where: str) -> None:
    model, settings = tiny_llama(), {}
    if adapter_mode != "plain":
        sparsify(model, CALIBRATION, 0.5)
    if adapter_mode == "quantized":
        settings["quantization"] = quantize_model(model, CALIBRATION, group_size=16)
    supernet = random_adapters(
        supernetwork(model, lora_rank((4,), ("q", "down")), adapter_mode=adapter_mode, **settings)
    )
    with torch.no_grad():
        getattr(supernet.elastic_linears["layers.1.down"], where)[0, 0] = float("nan")
    path = r"layers\.1\.(mlp\.)?down(_proj)?"
    message = path + r" cannot be merged: its (weight|adapter) has \d+ of \d+ numbers that are not finite"
    for leave in (
        lambda: supernet.largest.extract(),
        lambda: supernet.largest.save_pretrained(tmp_path / "merged"),
        lambda: Healed(supernet.largest),
    ):
        with pytest.raises(ExportError, match=message):
            leave()
    if adapter_mode == "plain":
        with pytest.raises(ExportError, match=r"layers.1.down cannot be saved: its"):
            supernet.largest.save_adapter(tmp_path / "adapter")
    assert not list(tmp_path.iterdir())
