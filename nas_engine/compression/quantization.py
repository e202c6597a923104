"""A model put on INT4 or INT8 grids in place, layer by layer.

Its weights become what the integers stand for, so that it runs, trains and is measured like any other model;
`nas_engine.compression.checkpoint` writes the integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import pandas as pd
from torch import Tensor
from transformers import PreTrainedModel

from nas_engine.compression.calibration import calibrated_layers, require_complete
from nas_engine.compression.grid import Grid, GridSettings
from nas_engine.compression.observers import Hessians
from nas_engine.compression.rounding import gptq, output_error, round_to_nearest
from nas_engine.compression.sparsification import matrix_of
from nas_engine.errors import CompressionError
from nas_engine.families.descriptions import family_of
from nas_engine.families.plain import require_plain
from nas_engine.texts.batches import Batch
from search_spaces import ModuleName

QuantizationMethod = Literal["gptq", "rtn"]


@dataclass(frozen=True)
class Quantization:
    """What was found for each projection, by the space's names, such as ``layers.3.up``.

    Args:
        grids: the grid of every quantized projection.
        unrounded: the weights that were rounded onto them, as (outputs, inputs): where QA-SparsePEFT starts.
        errors: how much of each projection's outputs on the calibration data rounding changed, as
            ``||X (W - Ŵ)ᵀ||² / ||X Wᵀ||²``.
    """

    grids: Mapping[str, Grid]
    unrounded: Mapping[str, Tensor] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def report(self) -> pd.DataFrame:
        """One row a projection: `layer`, `projection`, `bits`, `group_size`, `symmetric`, `bytes` and `error`."""
        rows = [
            {
                "layer": ModuleName.parse(name).layer,
                "projection": ModuleName.parse(name).name,
                "bits": grid.settings.bits,
                "group_size": grid.settings.group_size,
                "symmetric": grid.settings.symmetric,
                "bytes": grid.stored_bytes,
                "error": self.errors.get(name, float("nan")),
            }
            for name, grid in self.grids.items()
        ]
        return pd.DataFrame(rows)


def quantize_model(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    bits: int = 4,
    group_size: int = 128,
    symmetric: bool = True,
    method: QuantizationMethod = "gptq",
    act_order: bool = False,
) -> Quantization:
    """Put the weight of every projection of `model` on a grid; embeddings and the output head stay as they are.

    Zeros stay zero. The calibration data passes through the layers that are already quantized.

    Args:
        model: of a known family, sparse or dense; is changed in place.
        batches: calibration texts as `input_ids` and `attention_mask` of shape (rows, tokens).
        bits: 4 or 8.
        group_size: consecutive inputs of an output that share a scale, such as 32, 64 or 128.
        symmetric: no zero points.
        method: ``"gptq"``, or ``"rtn"``, round to nearest, as a baseline.
        act_order: GPTQ takes the inputs with the largest activations first.

    Raises:
        CompressionError: the calibration data is empty, the group size does not divide a layer's inputs, or the model
            is quantized already.
        FamilyError: the model's family is not supported.
    """
    if method not in get_args(QuantizationMethod):
        raise CompressionError(f"method is {method!r}; choose one of {', '.join(get_args(QuantizationMethod))}.")
    settings = GridSettings(bits, group_size, symmetric)
    require_unquantized(model)
    require_plain(model, elastic=True)
    require_complete(model)
    _require_dividing(model, settings)
    grids: dict[str, Grid] = {}
    unrounded: dict[str, Tensor] = {}
    errors: dict[str, float] = {}
    for layer in calibrated_layers(model, batches):
        hessians = Hessians()
        layer.observe(hessians)
        for projection, linear in layer.projections.items():
            weight, name = matrix_of(linear), layer.name(projection)
            if method == "gptq":
                found = gptq(weight, hessians[projection], settings, act_order)
            else:
                found = round_to_nearest(weight, settings)
            errors[name] = output_error(weight, found.weight, hessians[projection])
            grids[name], unrounded[name] = found.grid, found.unrounded
            weight.copy_(found.weight)
    return Quantization(grids, unrounded, errors)


def require_unquantized(model: PreTrainedModel) -> None:
    """Check that `model` has ordinary weights.

    Raises:
        CompressionError: it is quantized, in whatever format; how to go on is said.
    """
    found = getattr(model.config, "quantization_config", None)
    if found is None:
        return
    method = found.get("quant_method") if isinstance(found, Mapping) else getattr(found, "quant_method", None)
    method = getattr(method, "value", method) or type(found).__name__
    raise CompressionError(
        f"the model is already quantized in the format {method!r}; give the unquantized model"
        + (", or read this one with nas_engine.compression.load_quantized." if method == "compressed-tensors" else ".")
    )


def _require_dividing(model: PreTrainedModel, settings: GridSettings) -> None:
    """All layers before the first is changed, so that a failure leaves the model as it was."""
    family = family_of(model)
    for index, layer in enumerate(model.get_submodule(family.layers).children()):
        for name, path in family.projections.items():
            settings.require_dividing(matrix_of(layer.get_submodule(path)).shape[1], str(ModuleName(index, name)))
