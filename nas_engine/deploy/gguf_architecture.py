"""What llama.cpp calls a family of models, and what of it llama.cpp can build.

A model whose layers agree leaves as its own architecture. Layers that differ need one whose tensors are made layer by
layer: ``deci`` for Llama-like models, ``openelm`` for those with norms on queries and keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from nas_engine.deploy.extracted_sizes import ExtractedSizes
from nas_engine.errors import ExportError
from nas_engine.families.family import attention_sizes

Metadata = dict[str, Any]  # values by the part of their key behind the architecture's name
GGUF_BLOCK = 32  # weights along the inputs that share a scale


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp knows a family.

    Args:
        name: of the architecture.
        uneven: the architecture for layers that differ, None if llama.cpp has none.
        activation: the MLP's, as transformers names it; the only one that the architecture knows.
        norm_offset: added to the weights of norms, which transformers keeps around 0.
        square: query heads together are as wide as the residual stream.
        metadata: what there is to say beside sizes.
    """

    name: str
    uneven: str | None = None
    activation: str = "silu"
    norm_offset: float = 0.0
    square: bool = False
    metadata: Callable[[PreTrainedConfig], Metadata] = field(default=lambda config: {})


def _rms(config: PreTrainedConfig) -> Metadata:
    return {"attention.layer_norm_rms_epsilon": float(config.rms_norm_eps)} | _rope(config.rope_parameters)


def _rope(parameters: Mapping[str, Any]) -> Metadata:
    kind = parameters.get("rope_type", "default")
    known = {"rope.freq_base": float(parameters["rope_theta"])}
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise ExportError(
            f"rotary embeddings of {parameters['partial_rotary_factor']:g} of a head's channels are not written for "
            "llama.cpp; choose another format."
        )
    if kind == "linear":
        return known | {"rope.scaling.type": "linear", "rope.scaling.factor": float(parameters["factor"])}
    if kind not in ("default", "llama3"):  # llama3 is a tensor of its own
        raise ExportError(
            f"rotary embeddings of type {kind!r} are not written for llama.cpp; default, linear and llama3 are."
        )
    return known


def _gemma(config: PreTrainedConfig) -> Metadata:
    size = attention_sizes(config)[2]
    if config.query_pre_attn_scalar != size:
        raise ExportError(
            f"query_pre_attn_scalar is {config.query_pre_attn_scalar}; llama.cpp scales by the head size, {size}."
        )
    return {
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "attention.sliding_window": config.sliding_window,
    }


def _gemma2(config: PreTrainedConfig) -> Metadata:
    _require_window_pattern(config, 2)
    return _gemma(config) | _rope(config.rope_parameters) | {
        "attn_logit_softcapping": float(config.attn_logit_softcapping),
        "final_logit_softcapping": float(config.final_logit_softcapping),
    }  # fmt: skip


def _gemma3(config: PreTrainedConfig) -> Metadata:
    _require_window_pattern(config, 6)
    found = _rope(config.rope_parameters["full_attention"])
    local = config.rope_parameters["sliding_attention"]
    if local.get("rope_type", "default") != "default" or local["rope_theta"] != 10000.0:
        raise ExportError(f"rotary embeddings of sliding windows are {dict(local)}; llama.cpp knows a base of 10,000.")
    if config.attn_logit_softcapping or config.final_logit_softcapping:
        raise ExportError("llama.cpp knows no soft caps of Gemma 3; choose another format.")
    return _gemma(config) | found


def _require_window_pattern(config: PreTrainedConfig, period: int) -> None:
    """Which layers see a window alone is fixed in llama.cpp: all but every `period`-th."""
    kinds = ["full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(len(config.layer_types))]
    if list(config.layer_types) != kinds:
        raise ExportError(
            f"llama.cpp gives every {period}. layer of {config.model_type} full attention, and this model has it in "
            "others, as one with whole layers left out does; leave no layer out."
        )


def _gpt2(config: PreTrainedConfig) -> Metadata:
    if not config.scale_attn_weights or config.scale_attn_by_inverse_layer_idx:
        raise ExportError("llama.cpp scales GPT-2's attention by the head size alone.")
    return {"attention.layer_norm_epsilon": float(config.layer_norm_epsilon)}


def _bloom(config: PreTrainedConfig) -> Metadata:
    if config.apply_residual_connection_post_layernorm:
        raise ExportError("llama.cpp knows no BLOOM with apply_residual_connection_post_layernorm.")
    return {"attention.layer_norm_epsilon": float(config.layer_norm_epsilon)}


def _mpt(config: PreTrainedConfig) -> Metadata:
    attention = config.attn_config
    for name in ("softmax_scale", "qk_ln", "prefix_lm"):
        if getattr(attention, name):
            raise ExportError(f"llama.cpp knows no MPT with {name}; choose another format.")
    known = {"attention.layer_norm_epsilon": float(config.layer_norm_epsilon)}
    known["attention.max_alibi_bias"] = 8.0  # what transformers computes with, whatever alibi_bias_max says
    return known | ({"attention.clamp_kqv": float(attention.clip_qkv)} if attention.clip_qkv else {})


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("llama", uneven="deci", metadata=_rms),
    "mistral": Architecture("llama", uneven="deci", metadata=_rms),
    "qwen2": Architecture("qwen2", uneven="deci", square=True, metadata=_rms),
    "qwen3": Architecture("qwen3", uneven="openelm", metadata=_rms),
    "gemma2": Architecture("gemma2", activation="gelu_pytorch_tanh", norm_offset=1.0, metadata=_gemma2),
    "gemma3_text": Architecture("gemma3", activation="gelu_pytorch_tanh", norm_offset=1.0, metadata=_gemma3),
    "phi3": Architecture("phi3", square=True, metadata=_rms),
    "gpt2": Architecture("gpt2", activation="gelu_new", square=True, metadata=_gpt2),
    "bloom": Architecture("bloom", activation="gelu", square=True, metadata=_bloom),
    "mpt": Architecture("mpt", activation="gelu", square=True, metadata=_mpt),
}


def architecture_of(config: PreTrainedConfig) -> Architecture:
    """How llama.cpp knows the family of `config`.

    Raises:
        ExportError: it does not, or the model is of another kind than llama.cpp's; what it has is named.
    """
    known = ARCHITECTURES.get(config.model_type)
    if known is None:
        raise ExportError(
            f"models of type {config.model_type!r} are not written as GGUF; {', '.join(sorted(ARCHITECTURES))} are."
        )
    activation = next(
        (
            getattr(config, key)
            for key in ("hidden_activation", "hidden_act", "activation_function")
            if hasattr(config, key)
        ),
        known.activation,
    )
    if activation != known.activation:
        raise ExportError(f"the activation is {activation!r}; llama.cpp's {known.name} has {known.activation!r} alone.")
    if getattr(config, "use_sliding_window", False):
        raise ExportError(f"llama.cpp's {known.name} has no sliding window; set config.use_sliding_window to False.")
    return known


def built_as(model: PreTrainedModel, known: Architecture, blocks: Sequence[ExtractedSizes]) -> str:
    """The architecture that llama.cpp can build with layers of these sizes.

    Raises:
        ExportError: there is none; what differs is named.
    """
    heads, _, size = attention_sizes(model.config)
    first = blocks[0]
    differ = len(set(blocks)) > 1 or not (first.heads and first.width)
    if not differ and not (known.square and first.heads * size != model.config.hidden_size):
        return known.name
    if known.uneven is None:
        what = "layers of different sizes, or without a block" if differ else f"{first.heads} of {heads} heads"
        raise ExportError(
            f"llama.cpp builds no {known.name} with {what}; give all layers the same sizes, "
            "or choose another format. Different layers are possible in "
            + ", ".join(sorted(name for name, a in ARCHITECTURES.items() if a.uneven))
            + "."
        )
    if not builds_uneven(model, known):
        raise ExportError(
            "llama.cpp builds layers of different sizes with norms on queries and keys only where the output is tied "
            "to the embeddings; give all layers the same sizes, or choose another format."
        )
    return known.uneven


def builds_uneven(model: PreTrainedModel, known: Architecture) -> bool:
    """Whether llama.cpp can build layers of different sizes of `model`; ``openelm`` has no output of its own."""
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return known.uneven is not None and (known.uneven != "openelm" or tied)


def context_length(config: PreTrainedConfig) -> int:
    """Tokens that a model may read; up to its window, where llama.cpp's architecture has none."""
    names = ("max_position_embeddings", "seq_length", "max_seq_len")
    positions: int = next((size for name in names if (size := getattr(config, name, None))), 2048)
    window = config.sliding_window if config.model_type in ("mistral", "phi3") else None
    return min(positions, window or positions)


def sizes(config: PreTrainedConfig, blocks: Sequence[ExtractedSizes], per_layer: bool) -> Metadata:
    """What every architecture is told of its sizes."""
    size = attention_sizes(config)[2]
    of_blocks = {
        "feed_forward_length": [block.width for block in blocks],
        "attention.head_count": [block.heads for block in blocks],
        "attention.head_count_kv": [block.kv_heads for block in blocks],
    }
    return {
        "block_count": len(blocks),
        "context_length": context_length(config),
        "embedding_length": config.hidden_size,
        "vocab_size": config.vocab_size,
        "attention.key_length": size,
        "attention.value_length": size,
        "rope.dimension_count": size,
        **{key: values if per_layer else values[0] for key, values in of_blocks.items()},
    }
