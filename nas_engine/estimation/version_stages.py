"""What it takes to make the versions that bits and zeros switch between: a formula, for it follows the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from nas_engine.compression.database import BUDGET_BYTES, FULL_BITS, Level
from nas_engine.compression.sparsification import projections_of

# By the time that they take on SmolLM2-135M's layers, in products of a weight with XᵀX at the speed of whole layers.
_REFITTED, _GPTQ = 30, 9
_READ_TOGETHER = {"k": "q", "v": "q", "up": "gate"}  # projections that read what another one reads


@dataclass(frozen=True)
class VersionsSize:
    """What the versions of all projections of a model take.

    Args:
        on_disk: bytes of the files.
        kept: bytes of versions that the database keeps in memory at most.
        passing: bytes beside model and hidden states while a layer's are made.
        operations: additions and multiplications.
    """

    on_disk: int
    kept: int
    passing: int
    operations: float


def versions_size(model: PreTrainedModel, levels: Sequence[Level], tokens: int, refit: bool) -> VersionsSize:
    """What `nas_engine.compression.database_building` makes of `model`.

    Args:
        model: plain, or an outline.
        levels: the dense one among them.
        tokens: of the calibration texts.
        refit: whether kept weights make up for the zeros.
    """
    densities = len({level.density for level in levels})
    on_grid = sum(level.bits != FULL_BITS for level in levels)
    by_layer: dict[int, dict[str, tuple[int, int]]] = {}
    itemsize = 4
    for layer, name, weight in projections_of(model):
        outputs, inputs = weight.shape
        by_layer.setdefault(layer, {})[name] = (outputs, inputs)
        itemsize = weight.itemsize
    on_disk = passing = numbers = 0
    operations = 0.0
    for shapes in by_layer.values():
        weights = sum(outputs * inputs for outputs, inputs in shapes.values())
        written = weights * (itemsize + 2 * (len(levels) - 1))
        seen = [inputs for name, (_, inputs) in shapes.items() if _READ_TOGETHER.get(name) not in shapes]
        # Sparse weights of every density, and GPTQ's factors in fp64 or the systems of the zeros in fp32.
        one = max(
            densities * itemsize * outputs * inputs + max(28 * inputs**2, 4 * inputs**2 + 24 * outputs * inputs)
            for outputs, inputs in shapes.values()
        )
        numbers += weights
        on_disk, passing = on_disk + written, max(passing, written + sum(4 * inputs**2 for inputs in seen) + one)
        products = (_REFITTED * (densities - 1) if refit else 0) + _GPTQ * on_grid
        operations += sum(2.0 * products * outputs * inputs**2 for outputs, inputs in shapes.values())
        # Each layer runs twice: for what its projections read, and for the next layer.
        operations += 4.0 * weights * tokens + sum(float(tokens) * inputs**2 for inputs in seen)
    kept = min(BUDGET_BYTES, len(levels) * itemsize * numbers)
    return VersionsSize(on_disk, kept, passing, operations)
