"""Tiny real models and a tokenizer for tests, built offline and the same at every call."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
# Of a Phi-3 that computes texts of more than 48 tokens by other factors.
LONG_ROPE: dict[str, Any] = {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "partial_rotary_factor": 1.0,
        "original_max_position_embeddings": 48,
        "factor": 256 / 48,
    },
    "original_max_position_embeddings": 48,
}
MERGES = ("i n", "t h", "th e", "Ġ the", "Ġ a", "e r", "o n", "Ġ t", "Ġ w", "r e", "s t", "a t", "e n", "Ġ i", "Ġ o")


def tiny_llama(seed: int = 0, **config: Any) -> LlamaForCausalLM:
    """A seeded Llama of 3 layers, 4 heads of 8 and 2 KV heads; `config` overrides its configuration."""
    return seeded(LlamaForCausalLM, LlamaConfig, seed, config)


def tiny_mistral(seed: int = 0, **config: Any) -> MistralForCausalLM:
    """The same sizes as a Mistral, without a sliding window unless `config` sets one."""
    return seeded(MistralForCausalLM, MistralConfig, seed, {"sliding_window": None} | config)


def tiny_qwen2(seed: int = 0, **config: Any) -> Qwen2ForCausalLM:
    """The same sizes as a Qwen2: q, k and v have biases (nonzero ones, as after training)."""
    return seeded(Qwen2ForCausalLM, Qwen2Config, seed, config)


def tiny_qwen3(seed: int = 0, **config: Any) -> Qwen3ForCausalLM:
    """The same sizes as a Qwen3: queries and keys are normalized."""
    return seeded(Qwen3ForCausalLM, Qwen3Config, seed, config)


def tiny_gemma2(seed: int = 0, **config: Any) -> Gemma2ForCausalLM:
    """The same sizes as a Gemma 2: norms on both sides of each block, soft-capped logits."""
    return seeded(Gemma2ForCausalLM, Gemma2Config, seed, {"query_pre_attn_scalar": 8} | config)


def tiny_gemma3(seed: int = 0, **config: Any) -> Gemma3ForCausalLM:
    """The same sizes as a Gemma 3: as Gemma 2 without soft caps, with norms on queries and keys."""
    return seeded(Gemma3ForCausalLM, Gemma3TextConfig, seed, {"query_pre_attn_scalar": 8} | config)


def tiny_phi3(seed: int = 0, **config: Any) -> Phi3ForCausalLM:
    """The same sizes as a Phi-3: q, k and v in one layer, gate and up in another."""
    return seeded(Phi3ForCausalLM, Phi3Config, seed, config)


def tiny_smollm3(seed: int = 0, **config: Any) -> SmolLM3ForCausalLM:
    """The same sizes as a SmolLM3: its second layer has no rotary embeddings."""
    return seeded(SmolLM3ForCausalLM, SmolLM3Config, seed, {"no_rope_layer_interval": 2} | config)


def tiny_mixtral(seed: int = 0, **config: Any) -> MixtralForCausalLM:
    """The same sizes as a Mixtral: six experts, of which a token is sent to two."""
    sizes = {"num_local_experts": 6, "num_experts_per_tok": 2, "intermediate_size": 32}
    return seeded(MixtralForCausalLM, MixtralConfig, seed, sizes | config)


def tiny_qwen3_moe(seed: int = 0, **config: Any) -> Qwen3MoeForCausalLM:
    """The same sizes as a Qwen3-MoE: as Mixtral, with norms on queries and keys and weights that do not sum to 1."""
    sizes = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    return seeded(Qwen3MoeForCausalLM, Qwen3MoeConfig, seed, sizes | config)


def tiny_qwen3_5(seed: int = 0, **config: Any) -> Qwen3_5ForCausalLM:
    """The same sizes as a Qwen3.5: its first and last layer have linear attention."""
    sizes = {f"linear_{what}_head_dim": 8 for what in ("key", "value")} | {"linear_num_key_heads": 2}
    layers = {"linear_num_value_heads": 4, "layer_types": ["linear_attention", "full_attention", "linear_attention"]}
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 0]}
    return seeded(Qwen3_5ForCausalLM, Qwen3_5TextConfig, seed, sizes | layers | {"rope_parameters": rope} | config)


def tiny_gemma4(seed: int = 0, **config: Any) -> Gemma4ForCausalLM:
    """The same sizes as a Gemma 4: heads of 8 in windows and of 16 in the last layer, inputs of their own a layer."""
    sizes = {"global_head_dim": 16, "hidden_size_per_layer_input": 8}
    layers = {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
    vocabulary = {"vocab_size_per_layer_input": len(tiny_tokenizer())}
    return seeded(Gemma4ForCausalLM, Gemma4TextConfig, seed, sizes | layers | vocabulary | config)


def tiny_gemma4_shared(seed: int = 0) -> Gemma4ForCausalLM:
    """A Gemma 4 whose last layer reads the keys and values of the one before it, and has an MLP twice as wide."""
    layers = {"layer_types": ["full_attention"] * 3, "num_kv_shared_layers": 1, "use_double_wide_mlp": True}
    return tiny_gemma4(seed, **layers)


def tiny_gpt2(seed: int = 0, **config: Any) -> GPT2LMHeadModel:
    """A GPT-2 of 3 layers and 4 heads of 8: fused attention, weights kept as (inputs, outputs), learned positions."""
    sizes = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256, "n_inner": 48}
    return seeded(GPT2LMHeadModel, GPT2Config, seed, sizes | config, base={})


def tiny_opt(seed: int = 0, **config: Any) -> OPTForCausalLM:
    """An OPT of the same sizes: its MLP has no module of its own."""
    sizes = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    return seeded(OPTForCausalLM, OPTConfig, seed, sizes | {"word_embed_proj_dim": 32} | config, base={})


def tiny_bloom(seed: int = 0, **config: Any) -> BloomForCausalLM:
    """A BLOOM of 3 layers and 4 heads of 8: q, k and v head by head in one layer, ALiBi, an MLP 4 times as wide."""
    return seeded(BloomForCausalLM, BloomConfig, seed, {"hidden_size": 32, "n_layer": 3, "n_head": 4} | config, base={})


def tiny_mpt(seed: int = 0, **config: Any) -> MptForCausalLM:
    """An MPT of the same sizes as the BLOOM: q, k and v one after the other, no biases."""
    return seeded(MptForCausalLM, MptConfig, seed, {"d_model": 32, "n_layers": 3, "n_heads": 4} | config, base={})


def tiny_bert(seed: int = 0, **config: Any) -> BertForSequenceClassification:
    """A BERT of the same sizes that puts texts into three classes."""
    sizes = {name: size for name, size in SIZES.items() if name not in ("head_dim", "num_key_value_heads")}
    return seeded(BertForSequenceClassification, BertConfig, seed, sizes | {"num_labels": 3} | config, base={})


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 273 tokens: an end-of-text token, padding, every byte, a few merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<eos>", "<pad>", *alphabet, *(pair.replace(" ", "") for pair in MERGES)]
    bpe = models.BPE(
        vocab={token: i for i, token in enumerate(dict.fromkeys(tokens))},
        merges=[tuple(pair.split(" ")) for pair in MERGES],  # type: ignore[misc]
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


def seeded(
    architecture: type[PreTrainedModel],
    configuration: type[PreTrainedConfig],
    seed: int,
    config: dict[str, Any],
    base: dict[str, Any] = SIZES,
) -> Any:
    """A tiny model whose every weight follows from `seed`; `config` overrides the sizes of `base`."""
    tokens = {"vocab_size": len(tiny_tokenizer()), "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # A wider initialization than the default 0.02 keeps the logits of different models well apart.
        model = architecture(configuration(**base | tokens | {"initializer_range": 0.2} | config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # zero at the start, but not after training
                parameter.normal_(std=0.1, generator=generator)
    return model.eval()


# As Qwen2's and SmolLM2's, with a header of tools; the answers and what ends them stand between markers.
MARKED_CHATML = (
    "{% if tools %}{{ '<|im_start|>tools\\n' + tools | tojson + '<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CHATML = MARKED_CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def tiny_chat_tokenizer(template: str = CHATML) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with two more tokens, those of a chat model, and its template; ``<|im_end|>`` ends a turn."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = template
    return tokenizer
