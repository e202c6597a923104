"""The tensors of a GGUF file, from the parameters of a transformers model: renamed, in llama.cpp's order, encoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import gguf
import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nas_engine.compression.grid import Grid
from nas_engine.compression.sparsification import matrix_of
from nas_engine.deploy.exported import Weights
from nas_engine.deploy.extracted_sizes import ExtractedSizes
from nas_engine.deploy.gguf_architecture import GGUF_BLOCK, Architecture
from nas_engine.deploy.gguf_encoding import Encoded, encoded, on_grid, require_blocks
from nas_engine.errors import ExportError
from nas_engine.families.family import Family, attention_sizes

_KINDS = (".weight", ".bias")
_PAIRED = ("llama", "deci")  # rotate neighbouring channels, where transformers rotates halves


@dataclass(frozen=True)
class GgufPlan:
    """What is written.

    Args:
        model: an extracted one.
        family: of it.
        architecture: how llama.cpp knows the family.
        built: the architecture that llama.cpp builds.
        blocks: sizes of the layers.
        weights: the type of matrices; None for integers where a matrix lies on a grid, and f16 elsewhere.
        grids: of quantized matrices, by path.
    """

    model: PreTrainedModel
    family: Family
    architecture: Architecture
    built: str
    blocks: Sequence[ExtractedSizes]
    weights: Weights | None
    grids: Mapping[str, Grid]

    @property
    def written_blocks(self) -> tuple[ExtractedSizes, ...]:
        """Sizes as they are written: a block that llama.cpp cannot leave out becomes a small one of zeros.

        ``deci`` reads its head size off the first layer, and where an MLP is missing it forgets the attention before
        it; ``openelm`` leaves nothing out.
        """
        heads, kv_heads, _ = attention_sizes(self.model.config)
        smallest = (heads // kv_heads, 1)
        written = []
        for index, block in enumerate(self.blocks):
            needed = not block.heads and (index == 0 or self.built != "deci")
            written.append(
                ExtractedSizes(*(smallest if needed else (block.heads, block.kv_heads)), block.width or GGUF_BLOCK)
            )
        return tuple(written)


def tensors_of(plan: GgufPlan) -> Iterator[tuple[str, Encoded]]:
    """Every tensor by the name that llama.cpp knows it by.

    Raises:
        ExportError: one has no name there, or cannot be encoded.
    """
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[plan.built.upper()], len(plan.blocks))
    parts: list[Encoded] = []  # of a matrix that llama.cpp holds fused
    for path, tensor in parameters(plan).items():
        array, kind = _encoded(plan, path, tensor)
        stored = _in_order(plan, path, array), kind
        if plan.built == "openelm" and path.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            parts.append(stored)
            if len(parts) < 3:
                continue
            path = path.replace("v_proj", "qkv_proj")
            stored, parts = (np.concatenate([array for array, _ in parts]), kind), []
        name = names.get_name(path, _KINDS) or names.get_name(path.removeprefix("transformer."), _KINDS)
        if name is None:
            raise ExportError(f"llama.cpp's {plan.built} has no tensor for {path}.")
        yield name, stored
    factors = _rope_factors(plan.model)
    if factors is not None:
        yield "rope_freqs.weight", encoded(factors, "f32")


def parameters(plan: GgufPlan) -> dict[str, Tensor]:
    """By path: tied ones once, matrices as (outputs, inputs), and blocks of zeros where llama.cpp needs one."""
    model, layers = plan.model, plan.family.layers
    found = dict(_parameters(model))
    hidden, size = model.config.hidden_size, attention_sizes(model.config)[2]
    for index, (block, written) in enumerate(zip(plan.blocks, plan.written_blocks, strict=True)):
        zeros: dict[str, tuple[int, ...]] = {}
        if not block.width:
            zeros |= {"gate": (written.width, hidden), "up": (written.width, hidden), "down": (hidden, written.width)}
        if not block.heads and written.heads:
            queries, keys = written.heads * size, written.kv_heads * size
            zeros |= {"q": (queries, hidden), "k": (keys, hidden), "v": (keys, hidden), "o": (hidden, queries)}
            norms = ("q_norm", "k_norm") if plan.built == "openelm" else ()
            found |= {f"{layers}.{index}.self_attn.{norm}.weight": torch.ones(size) for norm in norms}
        for projection, shape in zeros.items():
            found[f"{layers}.{index}.{plan.family.projections[projection]}.weight"] = torch.zeros(shape)
        if not written.heads:
            del found[f"{layers}.{index}.input_layernorm.weight"]
    return found


def stored_matrices(plan: GgufPlan) -> Iterator[tuple[str, Encoded]]:
    """The model's own matrices as they are stored, by the path of their module, outputs in transformers' order."""
    for path, tensor in _parameters(plan.model):
        if tensor.dim() == 2:
            yield path.removesuffix(".weight"), _encoded(plan, path, tensor)


def _parameters(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    for path, parameter in model.named_parameters():
        module = model.get_submodule(path.rpartition(".")[0])
        yield path, matrix_of(module) if parameter.dim() == 2 else parameter.detach()


def _encoded(plan: GgufPlan, path: str, tensor: Tensor) -> Encoded:
    module, _, _ = path.rpartition(".")
    outside = not path.startswith(f"{plan.family.layers}.")
    if tensor.dim() == 1:
        return encoded(tensor + plan.architecture.norm_offset, "f32")
    if outside and module.endswith("wpe"):  # GPT-2's positions, which are added and never multiplied
        return encoded(tensor, "f32")
    if plan.weights is None and module in plan.grids:
        return on_grid(tensor, plan.grids[module], module)
    weights = plan.weights or "f16"
    if outside and weights == "q4_0":
        weights = "q8_0"  # embeddings: the output reads them too, and is more sensitive than all else
    require_blocks(tensor.shape[-1], weights, module)
    return encoded(tensor, weights)


def _in_order(plan: GgufPlan, path: str, array: np.ndarray) -> np.ndarray:
    """Rows, one an output, as llama.cpp wants them."""
    size = attention_sizes(plan.model.config)[2]
    rest = array.shape[1:]
    if plan.built in _PAIRED and path.split(".")[-2] in ("q_proj", "k_proj"):
        return array.reshape(-1, 2, size // 2, *rest).swapaxes(1, 2).reshape(array.shape)
    if plan.family.interleaved and path.split(".")[-2] == plan.family.projections["qkv"].split(".")[-1]:
        return array.reshape(-1, 3, size, *rest).swapaxes(0, 1).reshape(array.shape)
    return array


def _rope_factors(model: PreTrainedModel) -> Tensor | None:
    """What llama3 divides each frequency by, shape (head size / 2,)."""
    parameters = getattr(model.config, "rope_parameters", None) or {}
    if parameters.get("rope_type") != "llama3":
        return None
    rotary: nn.Module = model.get_decoder().rotary_emb
    size = attention_sizes(model.config)[2]
    plain = parameters["rope_theta"] ** -(torch.arange(0, size, 2) / size)
    factors: Tensor = plain / rotary.inv_freq.float().cpu()
    return factors
