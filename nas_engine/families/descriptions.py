"""The model families that are known, a description each: adding one needs no forward code."""

from __future__ import annotations

from transformers import PreTrainedModel

from nas_engine.errors import FamilyError
from nas_engine.families.family import Bypass, Family, HeadBias, StackedExperts

_PHI3 = Family(
    "phi3",
    projections={
        "qkv": "self_attn.qkv_proj",
        "o": "self_attn.o_proj",
        "gate_up": "mlp.gate_up_proj",
        "down": "mlp.down_proj",
    },
    head_attributes={"self_attn.config.num_attention_heads": "heads", "self_attn.num_key_value_heads": "kv_heads"},
)
_GPT2 = Family(
    "gpt2",
    layers="transformer.h",
    projections={"qkv": "attn.c_attn", "o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"},
    head_attributes={"attn.num_heads": "heads", "attn.split_size": "channels"},
    attention=(Bypass("attn", pair=True),),
    width_key="n_inner",
    stock_heads=False,
)
_OPT = Family(
    "opt",
    layers="model.decoder.layers",
    projections={
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.out_proj",
        "up": "fc1",
        "down": "fc2",
    },
    head_attributes={"self_attn.num_heads": "heads"},
    mlp=(Bypass("fc1", "first"), Bypass("fc2")),
    width_key="ffn_dim",
    stock_heads=False,
)
_BLOOM = Family(
    "bloom",
    layers="transformer.h",
    projections={
        "qkv": "self_attention.query_key_value",
        "o": "self_attention.dense",
        "up": "mlp.dense_h_to_4h",
        "down": "mlp.dense_4h_to_h",
    },
    interleaved=True,
    head_attributes={"self_attention.num_heads": "heads"},
    head_bias=HeadBias("self_attention", "alibi"),
    attention=(Bypass("self_attention", "second", pair=True),),
    mlp=(Bypass("mlp", "second"),),
    width_key=None,
    stock_heads=False,
)
_MPT = Family(
    "mpt",
    layers="transformer.blocks",
    projections={"qkv": "attn.Wqkv", "o": "attn.out_proj", "up": "ffn.up_proj", "down": "ffn.down_proj"},
    head_attributes={"attn.n_heads": "heads"},
    head_bias=HeadBias("attn", "position_bias"),
    attention=(Bypass("attn", pair=True),),
    mlp=(Bypass("ffn", "second"),),
    width_key=None,
    stock_heads=False,
)
_BERT = Family(
    "bert",
    layers="bert.encoder.layer",
    projections={
        "q": "attention.self.query",
        "k": "attention.self.key",
        "v": "attention.self.value",
        "o": "attention.output.dense",
        "up": "intermediate.dense",
        "down": "output.dense",
    },
    attention=(Bypass("attention", "first", pair=True),),
    mlp=(Bypass("intermediate", "first"), Bypass("output", "second")),
    norm_last=True,
    stock_heads=False,
    head=("classifier",),
)
_AFTER = {"attention": "post_attention_layernorm", "mlp": "post_feedforward_layernorm"}
_GEMMAS = tuple(Family(name, norms_after=_AFTER, norm_last=True) for name in ("gemma2", "gemma3_text"))
_SMOLLM3 = Family("smollm3", layer_keys=("layer_types", "no_rope_layers"))  # every fourth layer rotates nothing
_ATTENTION = {name: f"self_attn.{name}_proj" for name in ("q", "k", "v", "o")}
_MIXTURES = (
    Family("mixtral", projections=_ATTENTION, experts=StackedExperts()),
    Family("qwen3_moe", projections=_ATTENTION, experts=StackedExperts(), width_key="moe_intermediate_size"),
)
_MLP = {name: f"mlp.{name}_proj" for name in ("gate", "up", "down")}
_QWEN3_5 = Family("qwen3_5_text", projections=_MLP, attention=(), hybrid=True)
_GEMMA4 = Family(  # heads of two sizes
    "gemma4_text",
    projections=_MLP,
    attention=(),
    norms_after={"mlp": "post_feedforward_layernorm"},
    norm_last=True,
    hybrid=True,
    granted={"enable_moe_block": False},  # experts beside the MLP
)
_LIKE_LLAMA = tuple(map(Family, ("llama", "mistral", "qwen2", "qwen3")))
FAMILIES = {
    family.model_type: family
    for family in (
        _BERT,
        _BLOOM,
        _GEMMA4,
        _GPT2,
        _MPT,
        _OPT,
        _PHI3,
        _QWEN3_5,
        _SMOLLM3,
        *_GEMMAS,
        *_MIXTURES,
        *_LIKE_LLAMA,
    )
}


ADMITTED: dict[str, Family] = {}
"""Families that nobody described, by type, found by inspection in this process."""


def is_admitted(model_type: str) -> bool:
    """Whether a model of this type was found to be like Llama in this process."""
    return model_type in ADMITTED


def admit(family: Family) -> Family:
    """Make `family`, which was found by inspection, that of its type for the rest of the process."""
    ADMITTED[family.model_type] = family
    return family


def family_of(model: PreTrainedModel) -> Family:
    """The family of `model`.

    Raises:
        FamilyError: no family describes its `model_type`, and no model of it was admitted by inspection (see
            `nas_engine.families.plain.require_plain`); the supported ones are named.
    """
    model_type = model.config.model_type
    family = FAMILIES.get(model_type) or ADMITTED.get(model_type)
    if family is None:
        raise FamilyError(
            f"models of type {model_type!r} are not supported; supported are {', '.join(sorted(FAMILIES))}. "
            "A new family is one description in nas_engine/families/descriptions.py."
        )
    return family
