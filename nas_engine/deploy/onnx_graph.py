"""A model as an ONNX graph: traced without its weights, which are put in as they are stored."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from nas_engine.deploy.rounding import Stored
from nas_engine.deploy.traced import Traceable, tracing
from nas_engine.errors import ExportError

FILE = "model.onnx"
_OPSET = 20
_CONTRIBUTED = "com.microsoft"  # operators that ONNX Runtime adds
IN_ONE_FILE = 1 << 30  # bytes of weights; more go beside it, for protobuf ends at 2 GiB
_BLOCKS = (128, 64, 32, 16)  # weights that ONNX Runtime lets share a scale
# Activations are rounded to 8 bits, block by block, for products with integers:
# in fp32 a token takes ten times as long.
_ACCURACY_LEVEL = 4


def converted(module: Traceable) -> ModelProto:
    """`module` with the inputs and outputs that optimum expects, and without its weights.

    The exporter is the one by TorchScript: the newer one takes ten times as long, which a latency table multiplies by
    the sub-networks that are timed.
    """
    inputs, outputs = module.input_names, module.output_names
    axes: dict[str, dict[int, str]] = {name: {0: "batch", 1: "tokens"} for name in ("input_ids", "position_ids")}
    axes["logits"] = axes["input_ids"] if module.every else {0: "batch"}
    axes["attention_mask"] = {0: "batch", 1: "past_and_tokens"}
    axes |= {name: {0: "batch", 2: "past"} for name in inputs if name.startswith("past_key_values.")}
    axes |= {name: {0: "batch", 2: "past_and_tokens"} for name in outputs if name.startswith("present.")}
    written = io.BytesIO()
    with tracing():
        torch.onnx.export(
            module,
            module.example,
            written,  # type: ignore[arg-type]  # of this exporter
            dynamo=False,
            export_params=False,
            do_constant_folding=False,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: sizes for name, sizes in axes.items() if name in (*inputs, *outputs)},
            opset_version=_OPSET,
        )
    return onnx.load_model_from_string(written.getvalue())


def with_weights(graph: ModelProto, module: Traceable, stored: Mapping[str, Stored]) -> ModelProto:
    """A copy of a `converted` graph with the weights of `module`; matrices are integers where they are `stored`."""
    model = ModelProto()
    model.CopyFrom(graph)
    given = {*module.input_names}
    needed = [port.name for port in model.graph.input if port.name not in given]
    ports = [port for port in model.graph.input if port.name in given]
    del model.graph.input[:]
    model.graph.input.extend(ports)
    tensors = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    matrices = {f"model.{path}.weight": matrix for path, matrix in stored.items()}
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for read in node.input:
            readers[read].append(node)
    replaced: dict[int, list[NodeProto]] = {}
    for name in needed:
        if name in matrices:
            replaced |= _put_integers(model, name, matrices[name], readers)
        if any(id(node) not in replaced for node in readers[name]):
            _add(model, name, tensors[name].detach().numpy())
    if matrices:
        nodes = [_copied(new) for node in model.graph.node for new in replaced.get(id(node), [node])]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        model.opset_import.append(helper.make_opsetid(_CONTRIBUTED, 1))
    return model


def write(model: ModelProto, folder: Path) -> None:
    """Write a graph and its weights."""
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > IN_ONE_FILE
    beside: dict[str, Any] = {"save_as_external_data": True, "location": f"{FILE}_data"} if large else {}
    onnx.save_model(model, str(folder / FILE), **beside)


def _put_integers(
    model: ModelProto, name: str, matrix: Stored, readers: Mapping[str, Sequence[NodeProto]]
) -> dict[int, list[NodeProto]]:
    """Add the integers of a matrix; what replaces the nodes that read it, by their `id`: products, and embeddings where
    blocks fit.
    """
    block, inputs = _block_of(matrix, name), matrix.integers.shape[1]
    products, rows = _products_and_rows(name, readers)
    if rows and inputs % block:
        rows = []  # the embeddings keep their floats
    bits = matrix.grid.settings.bits
    packed, scales, zero_points = nbits_tensors(matrix, block)
    _add(model, f"{name}.scales", scales)
    shared = [f"{name}.scales"]
    if zero_points is not None:
        _add(model, f"{name}.zero_points", zero_points)
        shared.append(f"{name}.zero_points")
    attributes: dict[str, Any] = {"bits": bits, "block_size": block, "domain": _CONTRIBUTED}
    if rows:
        _add(model, f"{name}.rows", packed.reshape(len(packed), -1))
    else:
        _add(model, f"{name}.blocks", packed)
    replaced: dict[int, list[NodeProto]] = {}
    for node in rows:
        replaced[id(node)] = [
            helper.make_node(
                "GatherBlockQuantized", [f"{name}.rows", node.input[1], *shared], list(node.output),
                node.name, gather_axis=0, quantize_axis=1, **attributes,
            )
        ]  # fmt: skip
    for transposed, product in products:
        before = []
        if rows:
            _add(model, f"{name}.shape", np.array(packed.shape, np.int64))
            before = [helper.make_node("Reshape", [f"{name}.rows", f"{name}.shape"], [f"{name}.blocks"])]
        replaced[id(transposed)] = []
        replaced[id(product)] = [
            *before,
            helper.make_node(
                "MatMulNBits", [product.input[0], f"{name}.blocks", *shared], list(product.output), product.name,
                K=inputs, N=len(packed), accuracy_level=_ACCURACY_LEVEL, **attributes,
            ),
        ]  # fmt: skip
    return replaced


def _copied(node: NodeProto) -> NodeProto:
    copied = NodeProto()
    copied.CopyFrom(node)
    return copied


def _products_and_rows(
    name: str, readers: Mapping[str, Sequence[NodeProto]]
) -> tuple[list[tuple[NodeProto, NodeProto]], list[NodeProto]]:
    """Products by the transposed matrix `name`, each with the node that transposes, and nodes that gather its rows."""
    products, rows = [], []
    for node in readers[name]:
        if node.op_type == "Gather":
            rows.append(node)
            continue
        behind = readers[node.output[0]]
        if node.op_type != "Transpose" or [product.op_type for product in behind] != ["MatMul"]:
            raise ExportError(f"{name} is read by {node.op_type}, of which there is no form for integers.")
        products.append((node, behind[0]))
    return products, rows


def _block_of(matrix: Stored, name: str) -> int:
    """Consecutive inputs that share a scale, as ONNX Runtime wants them."""
    group = matrix.grid.settings.group_size
    fitting = [block for block in _BLOCKS if group % block == 0]
    if not fitting and group == matrix.integers.shape[1]:
        return _BLOCKS[-1]  # all share one scale; the last block is filled up
    if not fitting:
        raise ExportError(
            f"{name} has groups of {group}; ONNX Runtime's are multiples of {_BLOCKS[-1]}. Choose weights='f32', or "
            f"quantize in groups of 32."
        )
    return fitting[0]


def nbits_tensors(matrix: Stored, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Integers from 0, shape (outputs, blocks, bytes), their scales, (outputs, blocks), and zero points."""
    settings, grid = matrix.grid.settings, matrix.grid
    outputs, inputs = matrix.integers.shape
    blocks = -(-inputs // block)
    shift = -settings.smallest
    values: np.ndarray = np.full((outputs, blocks * block), shift, np.uint8)
    values[:, :inputs] = (matrix.integers.numpy().astype(np.int16) + shift).astype(np.uint8)
    owner = np.minimum(np.arange(blocks) * block // settings.group_size, grid.scale.shape[1] - 1)  # group of a block
    scales = np.ascontiguousarray(grid.scale.float().numpy()[:, owner])
    zero_points = None
    if not settings.symmetric:
        shifted = (grid.zero_point.numpy()[:, owner].astype(np.int16) + shift).astype(np.uint8)
        zero_points = shifted if settings.bits == 8 else _nibbles(shifted)
    values = values.reshape(outputs, blocks, block)
    return (values if settings.bits == 8 else _nibbles(values)), scales, zero_points


def _nibbles(values: np.ndarray) -> np.ndarray:
    """Two values a byte along the last axis, the first one low."""
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros((*values.shape[:-1], 1), np.uint8)], -1)
    return np.ascontiguousarray(values[..., ::2] | values[..., 1::2] << 4)


def _add(model: ModelProto, name: str, array: np.ndarray) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))


def tensors(file: Path) -> Iterator[TensorProto]:
    """The weights of a written graph, without their values where those lie beside it."""
    yield from onnx.load_model(str(file), load_external_data=False).graph.initializer
