"""The sizes of a model that a space must know to name its genes; nothing of the model itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from search_spaces.errors import SpaceError
from search_spaces.limits import Limits

PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
EXPERTS = "experts"  # the module that holds all experts of a layer


@dataclass(frozen=True)
class ModelShape:
    """What may be cut in a transformer, layer by layer.

    Args:
        intermediate_sizes: MLP channels of each layer; its length is the number of layers.
        heads: query heads of each layer.
        kv_heads: heads of keys and values of each layer; each serves ``heads / kv_heads`` query heads.
        projections: the module of a layer that holds each projection, of q, k, v, o, gate, up and down. Fused ones
            share a module: q, k and v may all be in ``"qkv"``.
        limits: of where its sub-networks will run.
        experts: of each layer, where layers are mixtures of experts; `intermediate_sizes` are then those of one expert.
        experts_per_token: how many of them a token is sent to.
        width_multiple: MLP widths below the whole one are multiples of it.
    """

    intermediate_sizes: tuple[int, ...]
    heads: tuple[int, ...] = ()
    kv_heads: tuple[int, ...] = ()
    projections: Mapping[str, str] = field(default_factory=lambda: {name: name for name in PROJECTIONS})
    limits: Limits = field(default_factory=Limits)
    experts: tuple[int, ...] = ()
    experts_per_token: int = 0
    width_multiple: int = 1

    @property
    def layers(self) -> int:
        """The number of layers."""
        return len(self.intermediate_sizes)

    @property
    def mlp_modules(self) -> tuple[str, ...]:
        """The modules that have an MLP's width: its projections, or the experts."""
        if self.experts:
            return (EXPERTS,)
        return self.modules(name for name in ("gate", "up", "down") if name in self.projections)

    def modules(self, projections: Iterable[str]) -> tuple[str, ...]:
        """The modules that hold `projections`, each once.

        Raises:
            SpaceError: one of `projections` is not a projection of this model.
        """
        names = tuple(projections)
        unknown = [name for name in names if name not in self.projections]
        if unknown:
            raise SpaceError(f"this model has no projection {unknown[0]!r}; choose from {', '.join(self.projections)}.")
        return tuple(dict.fromkeys(self.projections[name] for name in names))
