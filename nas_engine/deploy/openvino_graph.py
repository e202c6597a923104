"""A model as OpenVINO's graph: traced, its cache made a state, its matrices the constants that are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import openvino as ov
import torch
from openvino import Type, op, opset13
from openvino._offline_transformations import apply_make_stateful_transformation, apply_moc_transformations
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

from nas_engine.deploy.rounding import Stored
from nas_engine.deploy.traced import CachedLayer, Traceable, tracing

FILE = "openvino_model.xml"
_TYPES = {(4, True): Type.i4, (4, False): Type.u4, (8, True): Type.i8, (8, False): Type.u8}


def converted(module: Traceable) -> ov.Model:
    """`module` with the inputs and the state that optimum-intel and OpenVINO GenAI expect.

    OpenVINO's `convert_model` would do the first half, but reports each conversion to its makers.
    """
    with tracing():
        decoder = TorchScriptPythonDecoder(module, example_input=module.example, trace_kwargs={"check_trace": False})
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))
    apply_moc_transformations(model, cf=False)
    shapes = {"input_ids": [-1, -1], "attention_mask": [-1, -1], "position_ids": [-1, -1]}
    for layer in module.cached:
        for kind, channels in zip(("key", "value"), layer.channels, strict=True):
            shapes[f"past_key_values.{layer.index}.{kind}"] = [-1, layer.heads, -1, channels]
    for port, name in zip(model.inputs, module.input_names, strict=True):
        _name(port, name)
        port.get_node().set_partial_shape(ov.PartialShape(shapes[name]))
    for port, name in zip(model.outputs, module.output_names, strict=True):
        _name(port, name)
    model.validate_nodes_and_infer_types()
    _make_stateful(model, module.cached)
    return model


def store(model: ov.Model, stored: Mapping[str, Stored]) -> None:
    """Replace matrices of a `converted` model by integers, by the path of their module."""
    constants = {node.get_friendly_name(): node for node in model.get_ops() if node.get_type_name() == "Constant"}
    for path, matrix in stored.items():
        constant = constants[f"self.model.{path}.weight"]
        compressed = compressed_constant(matrix)
        for reader in constant.output(0).get_target_inputs():
            reader.replace_source_output(compressed.output(0))
        compressed.set_friendly_name(constant.get_friendly_name())
    model.validate_nodes_and_infer_types()


def write(model: ov.Model, folder: Path, half: bool) -> None:
    """Write the graph and its weights; `half`, what is no integer as fp16."""
    ov.save_model(model, folder / FILE, compress_to_fp16=half)


def _name(port: ov.Output, name: str) -> None:
    port.get_node().set_friendly_name(name)
    port.get_tensor().set_names({name})


def _make_stateful(model: ov.Model, cached: Sequence[CachedLayer]) -> None:
    """Let keys and values stay in the model; each sequence of a batch goes on from the one that `beam_idx` names."""
    inputs = {port.get_any_name(): port.get_node() for port in model.inputs}
    beams = op.Parameter(Type.i32, ov.PartialShape([-1]))
    _name(beams.output(0), "beam_idx")
    zero = opset13.constant(0, Type.i64)
    batch = opset13.gather(opset13.shape_of(inputs["input_ids"]), opset13.constant([0], Type.i64), zero)
    names = [f"{layer.index}.{kind}" for layer in cached for kind in ("key", "value")]
    for name in names:
        past = inputs[f"past_key_values.{name}"]
        readers = past.output(0).get_target_inputs()
        chosen = opset13.gather(past, beams, zero)
        for reader in readers:
            reader.replace_source_output(chosen.output(0))
    model.add_parameters([beams])
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, {f"past_key_values.{name}": f"present.{name}" for name in names})
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            _, heads, _, channels = node.get_output_partial_shape(0)
            sizes = [opset13.constant([size], Type.i64) for size in (heads.get_length(), 0, channels.get_length())]
            nothing = opset13.broadcast(opset13.constant(0.0, Type.f32), opset13.concat([batch, *sizes], 0))
            node.set_arguments([nothing.output(0)])
    model.validate_nodes_and_infer_types()


def compressed_constant(matrix: Stored) -> ov.Node:
    """Integers, and what makes them numbers again: the pattern by which OpenVINO multiplies by them as they are."""
    settings, grid = matrix.grid.settings, matrix.grid
    outputs, inputs = matrix.integers.shape
    grouped = inputs != settings.group_size
    shape = [outputs, inputs // settings.group_size, settings.group_size] if grouped else [outputs, inputs]
    scale_shape = [*shape[:-1], 1]
    kind = _TYPES[settings.bits, settings.symmetric]
    shift = 0 if settings.symmetric else -settings.smallest
    value = opset13.convert(_constant(matrix.integers.numpy(), shift, shape, kind), Type.f16)
    if not settings.symmetric:
        zero_points = _constant(grid.zero_point.numpy(), shift, scale_shape, kind)
        value = opset13.subtract(value, opset13.convert(zero_points, Type.f16))
    scale = grid.scale.to(torch.float16).numpy().reshape(scale_shape)
    value = opset13.multiply(value, op.Constant(np.ascontiguousarray(scale)))
    if grouped:
        value = opset13.reshape(value, opset13.constant([outputs, inputs], Type.i64), False)
    return opset13.convert(value, Type.f32)


def _constant(integers: np.ndarray, shift: int, shape: Sequence[int], kind: Type) -> ov.Node:
    """Signed `integers` plus `shift`; of 4 bits two a byte, the first one low."""
    values: np.ndarray = (integers.astype(np.int16) + shift).astype(np.uint8).reshape(-1)
    if kind in (Type.i4, Type.u4):
        values = np.append(values, np.zeros(len(values) % 2, np.uint8))
        values = (values[::2] & 15) | (values[1::2] & 15) << 4
    elif kind == Type.i8:
        values = values.view(np.int8)
    packed = kind in (Type.i4, Type.u4)
    tensor = ov.Tensor(values, ov.Shape(list(shape)), kind) if packed else ov.Tensor(values.reshape(shape))
    return op.Constant(tensor, shared_memory=False)
