"""A model as a folder that OpenVINO or ONNX Runtime computes, compared with what transformers computes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nas_engine.deploy.exported import Check, ExportRequest
from nas_engine.deploy.graph_check import compared_as_stored, prompts_of, require_exact
from nas_engine.deploy.graph_runtimes import OPENVINO, GraphRuntime
from nas_engine.deploy.rounding import Stored, integer_matrices, rounded
from nas_engine.deploy.traced import Traceable, traceable
from nas_engine.errors import NasEngineWarning
from nas_engine.families.descriptions import family_of

Write = Callable[[Path, Mapping[str, Stored], bool], None]  # a folder, integers, and whether floats are fp16


def export_graph(runtime: GraphRuntime, asked: ExportRequest, folder: Path) -> tuple[int, Check | None]:
    """Write and check; the bytes of the graph and its weights, and what the check found.

    Where a check is asked for, everything is written in fp32 first: what the runtime computes from that must be what
    transformers does, to the order of sums. What is rounded comes after, for its difference depends on the texts.

    Raises:
        ExportError: the runtime is not installed, the model cannot be traced or stored so, or it computes something
            else in fp32.
    """
    runtime.require_writers()
    if asked.check:
        runtime.require()
    model, weights = asked.model, asked.weights
    family = family_of(model)
    module = traceable(model, every=asked.logits == "all")
    scales = torch.float16 if runtime is OPENVINO else torch.float32
    stored = integer_matrices(model, family, weights, asked.grids, scales)
    half = (weights or runtime.floats) == "f16"
    write = _openvino(module) if runtime is OPENVINO else _onnx(module)
    folder.mkdir()
    found = None
    if asked.check:
        prompts = prompts_of([asked.tokenizer(text)["input_ids"] for text in asked.texts], model)
        write(folder, {}, False)
        found = require_exact(runtime, module.model, folder, prompts)
    if found is None or weights != "f32":
        for file in folder.iterdir():
            file.unlink()
        write(folder, stored, half)
    size = sum(file.stat().st_size for file in folder.iterdir())
    if found is not None and (stored or runtime.rounds):
        as_written = rounded(module.model, stored, half) if stored or half else module.model
        found = compared_as_stored(runtime, module.model, as_written, weights, folder, prompts, found.exact)
        _warn(runtime, found)
    _describe(model, asked.tokenizer, folder)
    return size, found


def _openvino(module: Traceable) -> Write:
    from nas_engine.deploy.openvino_graph import converted, store, write  # the package is an extra

    graph = converted(module)

    def written(folder: Path, stored: Mapping[str, Stored], half: bool) -> None:
        store(graph, stored)  # in place: fp32 comes first
        write(graph, folder, half)

    return written


def _onnx(module: Traceable) -> Write:
    from nas_engine.deploy.onnx_graph import converted, with_weights, write  # the package is an extra

    graph = converted(module)

    def written(folder: Path, stored: Mapping[str, Stored], half: bool) -> None:
        del half  # its kernels for the processor compute in fp32
        write(with_weights(graph, module, stored), folder)

    return written


def _warn(runtime: GraphRuntime, found: Check) -> None:
    if found.difference > found.tolerance:
        warnings.warn(
            f"the graph is right, to {found.exact:.2g} nats in fp32; but with its own settings {runtime.title} rounds "
            f"activations or its cache too, and on the texts of the check log-probabilities change by up to "
            f"{found.difference:.2g} nats, where {found.tolerance:g} is usual. Give texts of the kind that the model "
            "is for to see what it means there.",
            NasEngineWarning,
            stacklevel=5,
        )


def _describe(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write configuration and tokenizer beside the graph, as optimum expects them: of the stock architecture, for the
    graph holds what differs.
    """
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__.removeprefix("Subnetwork")]
    for name in ("subnetwork", "auto_map", "quantization_config"):
        if hasattr(config, name):
            delattr(config, name)
    config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
