"""Files that are there as a whole or not at all, whenever their writer is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path to write to; what is there at the end becomes `file` at once. Until then the old one stays."""
    temporary = file.with_name(f"{file.name}.tmp")
    yield temporary
    os.replace(temporary, file)
