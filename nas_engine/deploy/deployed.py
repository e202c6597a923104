"""A sub-network as the file that a runtime loads, for as long as it is timed there."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

from nas_engine.deploy.exported import Export


@dataclass(frozen=True)
class Deployed:
    """A sub-network as a file.

    Args:
        export: what was written.
        folder: holds the file, and goes with this object.
    """

    export: Export
    folder: tempfile.TemporaryDirectory[str]
