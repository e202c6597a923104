"""The name of a module that a gene moves, such as ``layers.3.up``: the one place that writes and reads it."""

from __future__ import annotations

import re
from typing import NamedTuple

from search_spaces.errors import SpaceError

_PATTERN = re.compile(r"layers\.([0-9]{1,6})\.(\w+)")


class ModuleName(NamedTuple):
    """A projection of a layer, or one of its blocks, in the words of a search space; ``str`` writes it.

    Args:
        layer: index of the layer, from 0.
        name: of the projection, such as ``up``, or of the block: ``attention`` or ``mlp``.
    """

    layer: int
    name: str

    def __str__(self) -> str:
        return f"layers.{self.layer}.{self.name}"

    @classmethod
    def parse(cls, text: str) -> ModuleName:
        """The name that `text` writes.

        Raises:
            SpaceError: `text` is no module's name.
        """
        found = _PATTERN.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise SpaceError(f"{text!r} names no module; write it as layers.3.up.")
        return cls(int(found[1]), found[2])
