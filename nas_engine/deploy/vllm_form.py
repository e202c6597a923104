"""Which of vLLM's ways of building a model a compressed one fits, by the rules of vLLM 0.33's own source.

| form | built by | layers may differ in |
|---|---|---|
| ``native`` | vLLM's class for the architecture | nothing |
| ``transformers`` | its Transformers backend: `AutoModel.from_config`, linear layers replaced by their own sizes | MLP widths, MLPs left out |
| ``nemotron_nas`` | `DeciLMForCausalLM`, Llama with `block_configs` | MLP widths, blocks left out but the first attention |
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from transformers import PreTrainedConfig, PreTrainedModel

from nas_engine.deploy.extracted_sizes import ExtractedSizes, extracted_sizes
from nas_engine.errors import ExportError
from nas_engine.families.descriptions import family_of
from nas_engine.families.family import attention_sizes

Implementation = Literal["native", "transformers", "nemotron_nas"]
ARCHITECTURES = {"transformers": "TransformersForCausalLM", "nemotron_nas": "DeciLMForCausalLM"}
NATIVE = ("bloom", "gemma2", "gemma3_text", "gpt2", "llama", "mistral", "opt", "phi3", "qwen2", "qwen3")
BACKEND = tuple(name for name in NATIVE if name != "bloom")  # its attention passes by transformers' interface
LIKE_LLAMA = ("llama", "mistral", "qwen2")
# What vLLM's classes know no other activation than.
_SILU = ("llama", "mistral", "phi3", "qwen2", "qwen3")


def implementation_of(model: PreTrainedModel) -> Implementation:
    """The form that `model` leaves in: vLLM's own class where it can, ``nemotron_nas`` for blocks that are left out.

    Raises:
        ExportError: vLLM builds it in none; why, and what can be changed.
    """
    config = model.config
    require_known(config)
    blocks = extracted_sizes(model, family_of(model))
    if getattr(config, "subnetwork", None) is None and _head_sizes_fit(config):
        return "native"
    without = {"transformers": _not_by_transformers(config, blocks), "nemotron_nas": _not_by_nemotron(config, blocks)}
    skipped = not all(block.heads and block.width for block in blocks)
    order: tuple[Implementation, Implementation] = (
        ("nemotron_nas", "transformers") if skipped else ("transformers", "nemotron_nas")
    )
    for form in order:
        if without[form] is None:
            return form
    raise ExportError(
        f"vLLM cannot build this model. By its Transformers backend not: {without['transformers']}. As nemotron_nas "
        f"not: {without['nemotron_nas']}. A space made with target='vllm' offers none of this."
    )


def require_known(config: PreTrainedConfig) -> None:
    """Check that vLLM has the family of `config`.

    Raises:
        ExportError: it has not, or with another activation alone.
    """
    if config.model_type not in NATIVE:
        raise ExportError(f"models of type {config.model_type!r} are not written for vLLM; {', '.join(NATIVE)} are.")
    if config.model_type in _SILU and config.hidden_act != "silu":
        raise ExportError(f"the activation is {config.hidden_act!r}; vLLM's {config.model_type} has 'silu' alone.")


def _head_sizes_fit(config: PreTrainedConfig) -> bool:
    """Whether vLLM's own class finds the size of a head: that of Qwen2 divides, and reads no `head_dim`."""
    heads, _, size = attention_sizes(config)
    return config.model_type != "qwen2" or heads * size == config.hidden_size


def _not_by_transformers(config: PreTrainedConfig, blocks: Sequence[ExtractedSizes]) -> str | None:
    if config.model_type not in BACKEND:
        return f"it knows no {config.model_type}; give all layers the whole sizes"
    missing = next((i for i, block in enumerate(blocks) if not block.heads), None)
    if missing is not None:
        return f"layer {missing} has no attention; keep it"
    return _heads_differ(config, blocks) or _fewer_heads(config, blocks)


def _not_by_nemotron(config: PreTrainedConfig, blocks: Sequence[ExtractedSizes]) -> str | None:
    if config.model_type not in LIKE_LLAMA:
        return f"it is made like Llama, and {config.model_type} is not"
    if has_window(config):
        return f"it has no sliding window, and this model's is {config.sliding_window}"
    if not blocks[0].heads:
        return "its first layer needs attention, and this model's has none; keep it"
    reason = _heads_differ(config, blocks)
    if reason is None and config.hidden_size % blocks[0].heads:
        reason = f"{blocks[0].heads} heads do not divide the hidden size of {config.hidden_size}; choose a divisor"
    return reason


def has_window(config: PreTrainedConfig) -> bool:
    """Whether attention sees a window of the last tokens alone."""
    return bool(getattr(config, "use_sliding_window", True)) and getattr(config, "sliding_window", None) is not None


def _heads_differ(config: PreTrainedConfig, blocks: Sequence[ExtractedSizes]) -> str | None:
    heads = sorted({block.heads for block in blocks if block.heads})
    if len(heads) < 2:
        return None
    return (
        f"layers have {' and '.join(map(str, heads))} query heads, and vLLM one number for all; "
        f"let all {len(blocks)} layers share a gene, attention_heads(..., layers_per_gene={len(blocks)})"
    )


def _fewer_heads(config: PreTrainedConfig, blocks: Sequence[ExtractedSizes]) -> str | None:
    heads, kv_heads, _ = attention_sizes(config)
    if blocks[0] == ExtractedSizes(heads, kv_heads, blocks[0].width):
        return None
    return (
        f"layers have {blocks[0].heads} query heads, where a configuration of {config.model_type} cannot say so; "
        "keep all heads"
    )
