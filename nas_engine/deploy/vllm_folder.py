"""A folder that vLLM serves, loaded again and compared before it appears."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from evaluators.whole_file import replacing
from nas_engine.compression.checkpoint import save_on_grids
from nas_engine.compression.grid import Grid
from nas_engine.deploy.exported import Export, ExportRequest
from nas_engine.deploy.extracted_sizes import ExtractedSizes, extracted_sizes
from nas_engine.deploy.vllm_check import checked_folder
from nas_engine.deploy.vllm_form import ARCHITECTURES, implementation_of
from nas_engine.deploy.vllm_quantization import require_servable
from nas_engine.errors import ExportError
from nas_engine.families import modeling_subnetwork as runtime
from nas_engine.families.descriptions import family_of
from nas_engine.families.family import attention_sizes
from nas_engine.progress import without_bars

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
# What a Llama's configuration says, whatever the family that it was read from.
_SHARED = ("vocab_size", "hidden_size", "num_hidden_layers", "hidden_act", "max_position_embeddings",
           "initializer_range", "rms_norm_eps", "rope_parameters", "use_cache", "pad_token_id", "bos_token_id",
           "eos_token_id", "tie_word_embeddings")  # fmt: skip


def export_vllm(asked: ExportRequest) -> Export:
    """Write the model in the form that vLLM builds it from; see `nas_engine.export`.

    Raises:
        ExportError: vLLM cannot build it, or what was written computes something else; no folder is left.
        CompressionError: a quantized layer is no linear layer, or compressed-tensors is not installed.
    """
    model, tokenizer, folder, weights = asked.model, asked.tokenizer, asked.file, asked.weights
    if weights is not None and weights not in DTYPES:
        raise ExportError(
            f"weights is {weights!r}, which is GGUF's; choose one of {', '.join(DTYPES)}, or none to keep what there "
            "is: integers of a model that quantize_model made are written as such."
        )
    kept = asked.grids if weights is None else {}
    form = implementation_of(model)
    require_servable(model, family_of(model), kept)
    dtype = DTYPES[weights] if weights else model.dtype
    written = as_nemotron(model) if form == "nemotron_nas" else model
    architecture = ARCHITECTURES.get(form, type(model).__name__)
    with replacing(folder) as unfinished:
        _write(written, unfinished, dtype, kept)
        tokenizer.save_pretrained(unfinished)
        found = checked_folder(model, unfinished, type(written), tokenizer, dtype, asked.texts) if asked.check else None
        size = sum(file.stat().st_size for file in unfinished.rglob("*.safetensors"))
        result = Export(folder, architecture, weights, size, found)
        about = json.dumps(asdict(result) | {"file": folder.name}, indent=2)
        (unfinished / "export.json").write_text(about + "\n", encoding="utf-8")
    return result


def as_nemotron(model: PreTrainedModel) -> runtime.DeciLMForCausalLM:
    """`model`, which is made like Llama, as `nemotron_nas` names its parts; it shares all tensors, and is to be saved.

    What Llama has and the model lacks is zero: a bias of the attention's output beside those of queries, keys and
    values.
    """
    config, family = model.config, family_of(model)
    blocks = extracted_sizes(model, family)
    _, _, size = attention_sizes(config)
    heads, kv_heads = next((block.heads, block.kv_heads) for block in blocks if block.heads)
    state = model.state_dict()
    described = {
        "block_configs": [_block_config(block) for block in blocks],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": size,
        "intermediate_size": max(block.width for block in blocks) or config.intermediate_size,
        "attention_bias": any(name.endswith("q_proj.bias") for name in state),
        "mlp_bias": any(name.endswith("up_proj.bias") for name in state),
    }
    shared = {name: getattr(config, name) for name in _SHARED}
    with torch.device("meta"):
        made = runtime.DeciLMForCausalLM(runtime.DeciLMConfig(**described, **shared))  # type: ignore[no-untyped-call]
    wanted = made.state_dict()
    zeros = {name: torch.zeros(t.shape, dtype=model.dtype) for name, t in wanted.items() if name not in state}
    unexpected = [name for name in zeros if not name.endswith("o_proj.bias")]
    if unexpected:
        raise ExportError(f"{unexpected[0]} is not there, and nemotron_nas needs it; choose another format.")
    made.load_state_dict({name: state.get(name, zeros.get(name)) for name in wanted}, assign=True)
    made.tie_weights()
    made.generation_config = model.generation_config
    return made


def _block_config(block: ExtractedSizes) -> dict[str, dict[str, Any]]:
    group = block.heads // block.kv_heads if block.heads else None
    attention = {"no_op": not block.heads, "replace_with_linear": False, "n_heads_in_group": group}
    ffn: dict[str, Any] = {"no_op": not block.width, "replace_with_linear": False}
    if block.width:  # not by ffn_mult, whose widths are rounded up to multiples of 256
        ffn["intermediate_size"] = block.width
    return {"attention": attention, "ffn": ffn}


def _write(model: PreTrainedModel, folder: Path, dtype: torch.dtype, grids: Mapping[str, Grid]) -> None:
    if grids:
        save_on_grids(model, grids, folder)
        return
    rounded: dict[tuple[Any, ...], Tensor] = {}  # tied weights stay one tensor, or they would be written twice
    state = {}
    for name, tensor in model.state_dict().items():
        same = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if same not in rounded:
            rounded[same] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        state[name] = rounded[same]
    with without_bars():
        model.save_pretrained(folder, state_dict=state)
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | {"dtype": str(dtype).removeprefix("torch.")}
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
