"""What a recipe does to a model, as data: Shears and SQFT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from nas_engine.errors import CompressionError
from nas_engine.jobs.sub_adapters import SearchPlan
from nas_engine.training.settings import HealingSettings, TrainingSettings
from search_spaces import SearchSpace, SpaceTemplate

Adapter = Literal["sqft", "sparsepeft", "qa-sparsepeft"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What recipes have in common.

    Args:
        sparsity: fraction of zeros, 0 for a dense base, or ``"2:4"`` or ``"4:8"``.
        refit: let the kept weights make up for the zeros before training; see
            `nas_engine.compression.sparsification`. The papers do not.
        space: of the adapter; None takes the paper's, ranks 32, 24 and 16.
        training: of the super-adapter.
        healing: of the chosen sub-adapter alone, zeros and grids kept, where it merges; None for none.
        searching: what is searched; nothing by default.
        calibration: training examples that show Wanda and GPTQ what each layer reads.
        seed: of everything random.
    """

    sparsity: float | str = 0.5
    refit: bool = False
    space: SpaceTemplate | SearchSpace | None = None
    training: TrainingSettings = TrainingSettings()  # frozen
    healing: HealingSettings | None = None
    searching: SearchPlan = SearchPlan()  # frozen
    calibration: int = 128
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ShearsRecipe(Recipe):
    """See `shears`.

    Args:
        merge: train the adapter on the nonzeros alone (SparsePEFT), so that it merges and every zero stays; False
            keeps it beside the base, as the paper does.
    """

    merge: bool = False


@dataclass(frozen=True, kw_only=True)
class SqftRecipe(Recipe):
    """See `sqft`.

    Args:
        bits: of the base, 4 or 8; with ``adapter="sparsepeft"`` the base stays in floating point.
        group_size: inputs of an output that share a scale; it must divide the inputs of every projection.
        symmetric: no zero points.
        adapter: ``"qa-sparsepeft"`` trains on the base's grid and merges to the same kind of integers;
            ``"sparsepeft"`` trains on the nonzeros of an unquantized base and merges to it; ``"sqft"`` keeps the
            adapter beside the quantized base.

    Raises:
        CompressionError: an unknown adapter.
    """

    bits: int = 4
    group_size: int = 64
    symmetric: bool = False
    adapter: Adapter = "qa-sparsepeft"

    def __post_init__(self) -> None:
        if self.adapter not in get_args(Adapter):
            raise CompressionError(f"adapter is {self.adapter!r}; choose one of {', '.join(get_args(Adapter))}.")
