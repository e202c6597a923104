"""The sizes of a model that a space must know to name its genes; nothing of the model itself."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.errors import SpaceError


@dataclass(frozen=True)
class ModelShape:
    """What may be cut in a decoder, layer by layer.

    Args:
        intermediate_sizes: MLP channels of each layer; its length is the number of layers.
        projections: the projections that every layer has, of q, k, v, o, gate, up and down.
    """

    intermediate_sizes: tuple[int, ...]
    projections: tuple[str, ...] = ("q", "k", "v", "o", "gate", "up", "down")

    @property
    def layers(self) -> int:
        """The number of decoder layers."""
        return len(self.intermediate_sizes)

    def require_projections(self, names: tuple[str, ...]) -> None:
        """Check that every layer has these projections.

        Raises:
            SpaceError: one of `names` is not a projection of this model.
        """
        unknown = [name for name in names if name not in self.projections]
        if unknown:
            raise SpaceError(f"this model has no projection {unknown[0]!r}; choose from {', '.join(self.projections)}.")
