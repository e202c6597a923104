"""The elastic rank of LoRA adapters (Mode A: LoNAS section 3, Shears section 2.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from search_spaces.choice import Choice
from search_spaces.errors import SpaceError
from search_spaces.module_name import ModuleName
from search_spaces.shape import ModelShape
from search_spaces.template import SpaceTemplate, layer_blocks

Sharing = Literal["layer", "each"] | Sequence[Sequence[str]]


@dataclass(frozen=True)
class LoraRank:
    """See `lora_rank`."""

    ranks: tuple[int, ...]
    groups: tuple[tuple[str, ...], ...]
    layers_per_gene: int
    skip_missing: bool = False

    def choices(self, shape: ModelShape) -> list[Choice]:
        """One choice for each group of projections in each block of layers."""
        groups = [group for group in map(partial(self._present, shape), self.groups) if group]
        return [
            Choice(
                f"{prefix}.{'_'.join(group)}.rank",
                self.ranks,
                tuple(str(ModuleName(layer, name)) for layer in block for name in shape.modules(group)),
                "lora_rank",
            )
            for prefix, block in layer_blocks(shape, self.layers_per_gene)
            for group in groups
        ]

    def _present(self, shape: ModelShape, group: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in group if not self.skip_missing or name in shape.projections)


def lora_rank(
    ranks: Iterable[int],
    targets: Sequence[str] = ("q", "k", "v", "up", "down"),
    share: Sharing = "layer",
    layers_per_gene: int = 1,
    skip_missing: bool = False,
) -> SpaceTemplate:
    """Elastic adapter ranks.

    Args:
        ranks: the ranks to choose from; a single one places an adapter of that rank and adds no gene.
        targets: the projections that carry an adapter, of q, k, v, o, gate, up and down. Where a model fuses some of
            them into one layer (Phi-3, GPT-2, BLOOM, MPT), they share an adapter, as PEFT gives them.
        share: ``"layer"`` gives a layer one rank for all targets, ``"each"`` one for every target, and a
            sequence of groups, such as ``(("q", "k", "v"), ("up",), ("down",))``, one for every group.
        layers_per_gene: how many consecutive layers share a gene.
        skip_missing: leave out targets that a model does not have, such as the gate of GPT-2, instead of refusing it.

    Raises:
        SpaceError: a rank that is not a positive whole number, no target, or groups that do not cover the targets.
    """
    given = tuple(ranks)
    if not given or any(not isinstance(rank, int) or isinstance(rank, bool) or rank < 1 for rank in given):
        raise SpaceError(f"ranks are {given}; give whole numbers from 1 up.")
    return SpaceTemplate(
        (LoraRank(tuple(sorted(set(given))), projection_groups(tuple(targets), share), layers_per_gene, skip_missing),)
    )


def projection_groups(targets: tuple[str, ...], share: Sharing) -> tuple[tuple[str, ...], ...]:
    """The groups of `targets` that `share` stands for, each of which has one gene in a layer.

    Raises:
        SpaceError: no target, an unknown word, or groups that do not cover the targets.
    """
    if not targets:
        raise SpaceError("targets is empty; name at least one projection, such as 'q'.")
    if share == "layer":
        return (targets,)
    if share == "each":
        return tuple((name,) for name in targets)
    if isinstance(share, str):
        raise SpaceError(f"share is {share!r}; choose 'layer', 'each' or groups of projections.")
    groups = tuple(tuple(group) for group in share)
    if sorted(name for group in groups for name in group) != sorted(targets):
        raise SpaceError(f"the groups {groups} must name each of the targets {targets} exactly once.")
    return groups
