"""A database of versions of an outline: what switching them makes, without numbers and without files."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from nas_engine.compression.calibration import require_complete
from nas_engine.compression.database import FULL_BITS, LayerDatabase, Level, Version
from nas_engine.compression.database_building import levels_of
from nas_engine.compression.grid import Grid, GridSettings
from nas_engine.compression.sparsification import projections_of
from nas_engine.supernet.compression_state import offered_levels
from search_spaces import ModuleName, SearchSpace


class OutlinedVersions(LayerDatabase):
    """As `build_database` would write it for a space; nothing is kept, for what is kept has a budget of its own.

    Args:
        model: an outline.
        space: bound to it.
        group_size: inputs that share a scale.

    Raises:
        CompressionError: it does not divide the inputs of a projection, or the model has some that get no versions.
    """

    def __init__(self, model: PreTrainedModel, space: SearchSpace, group_size: int) -> None:
        require_complete(model)
        self.folder, self.budget_bytes = Path("versions"), 0
        self.levels = tuple(levels_of(*offered_levels(space)))
        self.group_size = group_size
        self._shapes = {
            str(ModuleName(layer, name)): tuple(weight.shape) for layer, name, weight in projections_of(model)
        }
        for module, (_, inputs) in self._shapes.items():
            GridSettings(8, group_size).require_dividing(inputs, module)
        self.modules = tuple(self._shapes)
        self.base_fingerprint = self.identity = "0" * 16  # as an outline's

    def version(
        self,
        module: str,
        level: Level,
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008  # a constant
    ) -> Version:
        """The projection `module` at `level`."""
        outputs, inputs = self._shapes[module]
        weight = torch.empty(outputs, inputs, dtype=dtype, device=device)
        if level.bits == FULL_BITS:
            return Version(weight, None)
        groups = (outputs, inputs // self.group_size)
        scale = torch.empty(groups, dtype=dtype, device=device)
        settings = GridSettings(level.bits, self.group_size, symmetric=False)
        return Version(weight, Grid(settings, scale, torch.empty(groups, dtype=torch.int8, device=device)))
