"""Grids by themselves in a file, beside a base whose weights are held in floating point."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from evaluators.documents import parsed
from nas_engine.compression.grid import Grid, GridSettings
from nas_engine.errors import CompressionError


def save_grids(grids: Mapping[str, Grid], path: Path) -> None:
    """Write grids by name as safetensors, their settings in its header."""
    tensors = {f"{name}.scale": grid.scale.contiguous() for name, grid in grids.items()}
    tensors |= {f"{name}.zero_point": grid.zero_point.contiguous() for name, grid in grids.items()}
    settings = {name: asdict(grid.settings) for name, grid in grids.items()}
    save_file(tensors, path, metadata={"settings": json.dumps(settings)})


def load_grids(path: Path) -> dict[str, Grid]:
    """The grids that `save_grids` wrote.

    Raises:
        CompressionError: the file is damaged.
    """
    refusal = f"{path} holds no grids"
    try:
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get("settings", "")
            settings = parsed(about, dict[str, GridSettings], CompressionError, refusal)
            return {
                name: Grid(s, file.get_tensor(f"{name}.scale"), file.get_tensor(f"{name}.zero_point"))
                for name, s in settings.items()
            }
    except (OSError, SafetensorError) as error:
        raise CompressionError(f"{refusal}: {error}.") from error
