"""Where a sub-network will run: what a space may offer for it, known before the first step of training.

One entry a target. What it refuses of a model as a whole is refused here as `export` would, and what it refuses of
some sub-networks is left out of the space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from transformers import PreTrainedModel

from nas_engine.deploy.gguf_architecture import GGUF_BLOCK, architecture_of, builds_uneven
from nas_engine.deploy.traced import require_dense
from nas_engine.deploy.vllm_form import BACKEND, LIKE_LLAMA, has_window, require_known
from nas_engine.deploy.vllm_quantization import FUSED
from nas_engine.errors import ExportError
from nas_engine.families.descriptions import family_of
from nas_engine.families.family import attention_sizes
from search_spaces import Limits

TILE_OUTPUTS = 64  # outputs of a tile of vLLM's kernels
_NO_ZEROS = "multiplies by zeros as by any number; leave sparsity() out"


@dataclass(frozen=True)
class Target:
    """Where sub-networks will run.

    Args:
        name: of the runtime.
        limits: what it can run of a model.
        format: of what `export` writes for it; None where it loads what `save_pretrained` writes.
        file: what a job calls that.
        runtime: that of `Latency` which times it; None for PyTorch.
        weights: what matrices are stored as where nobody says; None leaves it to the format.
        zeros: weights of zero may save something there.
    """

    name: str
    limits: Callable[[PreTrainedModel], Limits] = lambda model: Limits()
    format: str | None = None
    file: str = ""
    runtime: str | None = None
    weights: str | None = None
    zeros: bool = True


def llama_cpp_limits(model: PreTrainedModel) -> Limits:
    """What llama.cpp runs of `model`: see `nas_engine.deploy.gguf_architecture`.

    Raises:
        ExportError: it runs no such model.
    """
    config = model.config
    known, (heads, kv_heads, size) = architecture_of(config), attention_sizes(config)
    known.metadata(config)  # refuses what it cannot say
    group = heads // kv_heads
    uneven = builds_uneven(model, known)
    possible = [n for n in range(group, heads + 1, group) if n * size % GGUF_BLOCK == 0 or n == heads]
    return Limits(
        "llama.cpp",
        multiple_of=GGUF_BLOCK,
        heads=tuple(possible) if uneven or not known.square else (heads,),
        alike=frozenset() if uneven else frozenset({"mlp_width", "attention_heads"}),
        whole={"density": _NO_ZEROS}
        | ({} if uneven else {"layer_skip": f"builds {known.name} with all its blocks; leave layer_skip() out"}),
        kept=frozenset({"layers.0.attention"}),
        fused=(("q", "k", "v"),) if known.uneven == "openelm" else (),
    )


def vllm_limits(model: PreTrainedModel) -> Limits:
    """What vLLM runs of `model`: see `nas_engine.deploy.vllm_form`.

    Raises:
        ExportError: it runs no such model.
    """
    config, family = model.config, family_of(model)
    require_known(config)
    heads, kv_heads, _ = attention_sizes(config)
    group, layers = heads // kv_heads, config.num_hidden_layers
    divisors = [n for n in range(group, heads + 1, group) if config.hidden_size % n == 0 or n == heads]
    whole = {"density": _NO_ZEROS}
    if config.model_type not in BACKEND:
        reason = f"builds {config.model_type} with all its sizes alone; leave {{}} out"
        whole |= {name: reason.format(f"{name}()") for name in ("mlp_width", "layer_skip")}
    skips = config.model_type in LIKE_LLAMA and not has_window(config)
    return Limits(
        "vllm",
        multiple_of=TILE_OUTPUTS,
        heads=tuple(divisors) if family.stock_heads else (heads,),
        alike=frozenset({"attention_heads"}),
        whole=whole,
        kept=frozenset(f"layers.{layer}.attention" for layer in range(1 if skips else layers)),
        fused=tuple(names for names in FUSED if set(names) <= set(family.projections)),
    )


def graph_limits(model: PreTrainedModel) -> Limits:
    """What runs as a graph of `model`: all of it, but for mixtures of experts and hybrids.

    Raises:
        ExportError: it is one.
    """
    require_dense(model)
    return Limits()


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target("transformers"),
        Target(
            "openvino", graph_limits, format="openvino", file="compressed-openvino", runtime="openvino", weights="int8"
        ),
        Target(
            "onnxruntime", graph_limits, format="onnx", file="compressed-onnx", runtime="onnxruntime", weights="int8"
        ),
        Target("llama.cpp", llama_cpp_limits, "gguf", "compressed.gguf", "llama.cpp", "q8_0", zeros=False),
        Target("vllm", vllm_limits, "vllm", "compressed-vllm", zeros=False),
    )
}


def target_named(name: str) -> Target:
    """The target of this name.

    Raises:
        ExportError: there is none; those that are there are named.
    """
    if name not in TARGETS:
        raise ExportError(f"target is {name!r}; choose one of {', '.join(TARGETS)}.")
    return TARGETS[name]
