"""A search space: an ordered tuple of genes, and the genomes and configurations in it.

A genome is an integer vector with one index a gene (0 is the smallest value). A configuration maps each gene's
name to its value. The space translates, checks, samples and names; it knows no network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces.choice import Choice, Value
from search_spaces.errors import ConfigurationError, SpaceError
from search_spaces.fingerprint import fingerprint_of

Genome = npt.NDArray[np.int64]
Configuration = Mapping[str, Value]


@dataclass(frozen=True)
class SearchSpace:
    """Genes in the order of the genome, and the choices that have one value only.

    Args:
        genes: the choices with two values or more; their order is the genome's.
        fixed: choices with a single value. They shape the super-network but need no gene.

    Raises:
        SpaceError: two choices share a name, or a choice is on the wrong side.
    """

    genes: tuple[Choice, ...]
    fixed: tuple[Choice, ...] = ()
    _positions: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = [choice.name for choice in self.choices]
        repeated = {name for name in names if names.count(name) > 1}
        if repeated:
            raise SpaceError(f"the space has {min(repeated)} twice; a gene's name must be unique.")
        if any(len(gene) < 2 for gene in self.genes) or any(len(choice) > 1 for choice in self.fixed):
            raise SpaceError("genes need two values or more, fixed choices exactly one.")
        object.__setattr__(self, "_positions", {gene.name: i for i, gene in enumerate(self.genes)})

    @classmethod
    def of(cls, choices: list[Choice]) -> SearchSpace:
        """The space of `choices`: those with one value become fixed, the rest genes."""
        genes = tuple(choice for choice in choices if len(choice) > 1)
        return cls(genes, tuple(choice for choice in choices if len(choice) == 1))

    def __add__(self, other: SearchSpace) -> SearchSpace:
        return SearchSpace(self.genes + other.genes, self.fixed + other.fixed)

    def __len__(self) -> int:
        return len(self.genes)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Every choice, fixed ones included."""
        return self.genes + self.fixed

    @property
    def names(self) -> tuple[str, ...]:
        """The genes' names, in the genome's order."""
        return tuple(gene.name for gene in self.genes)

    @property
    def cardinalities(self) -> Genome:
        """How many values each gene has, shape (genes,)."""
        return np.array([len(gene) for gene in self.genes], dtype=np.int64)

    def size(self) -> int:
        """How many sub-networks the space holds, exactly."""
        return math.prod(len(gene) for gene in self.genes)

    @property
    def largest(self) -> Genome:
        """Every gene at its largest value: the whole super-network."""
        return self.cardinalities - 1

    @property
    def smallest(self) -> Genome:
        """Every gene at its smallest value."""
        return np.zeros(len(self), dtype=np.int64)

    @property
    def median(self) -> Genome:
        """Every gene at its middle value, the papers' heuristic sub-network (Shears, section 3)."""
        return np.array([gene.median_index for gene in self.genes], dtype=np.int64)

    def genes_by_layer(self, layers: int) -> tuple[tuple[str, ...], ...]:
        """The names of the genes that move each of a model's first `layers` layers, in the genome's order."""
        moved = [gene.layers for gene in self.genes]
        return tuple(
            tuple(gene.name for gene, where in zip(self.genes, moved, strict=True) if layer in where)
            for layer in range(layers)
        )

    @property
    def layer_groups(self) -> tuple[tuple[int, ...], ...]:
        """Positions of genes that move a layer in common, directly or through another gene."""
        owner: dict[int, int] = {}
        group = list(range(len(self)))
        for i, gene in enumerate(self.genes):
            for layer in gene.layers:
                first = group[owner.setdefault(layer, i)]
                group = [first if g == group[i] else g for g in group] if first != group[i] else group
        return tuple(tuple(i for i, g in enumerate(group) if g == name) for name in dict.fromkeys(group))

    def sample(self, rng: np.random.Generator, count: int = 1) -> Genome:
        """Genomes drawn uniformly at random, shape (count, genes); repeats may occur."""
        return rng.integers(0, self.cardinalities, size=(count, len(self)), dtype=np.int64)

    def configuration(self, genome: npt.ArrayLike) -> dict[str, Value]:
        """The values that `genome` stands for, by gene name.

        Raises:
            ConfigurationError: wrong length, an entry that is no integer, or an index that a gene does not have.
        """
        checked = self.checked(genome)
        return {gene.name: gene.values[i] for gene, i in zip(self.genes, checked, strict=True)}

    def checked(self, genome: npt.ArrayLike) -> Genome:
        """`genome` as an integer vector of this space.

        Raises:
            ConfigurationError: as `configuration`.
        """
        array = np.asarray(genome)
        if array.shape != (len(self),):
            raise ConfigurationError(f"a genome of this space has {len(self)} entries, not shape {array.shape}.")
        indices = array.astype(np.int64)
        if not np.array_equal(indices, array):
            raise ConfigurationError(f"a genome holds whole numbers, not {array.tolist()}.")
        wrong = np.flatnonzero((indices < 0) | (indices >= self.cardinalities))
        if wrong.size:
            gene = self.genes[wrong[0]]
            raise ConfigurationError(
                f"{gene.name} has the index {indices[wrong[0]]}; this gene's go from 0 to {len(gene) - 1}."
            )
        return indices

    def genome(self, configuration: Configuration) -> Genome:
        """The genome of `configuration`; the inverse of `configuration(genome)`.

        Raises:
            ConfigurationError: a gene is missing, unknown, or has a value that its choice does not offer.
        """
        unknown = [name for name in configuration if name not in self._positions]
        if unknown:
            raise ConfigurationError(f"{unknown[0]!r} is no gene of this space; its genes are {_abridged(self.names)}.")
        missing = [name for name in self.names if name not in configuration]
        if missing:
            raise ConfigurationError(f"the configuration lacks {_abridged(missing)}.")
        return np.array([gene.index(configuration[gene.name]) for gene in self.genes], dtype=np.int64)

    def to_json(self) -> dict[str, Any]:
        """The space as JSON data."""
        return {
            "genes": [gene.to_json() for gene in self.genes],
            "fixed": [choice.to_json() for choice in self.fixed],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SearchSpace:
        """The space that `to_json` described.

        Raises:
            SpaceError: `data` is no space.
        """
        if not isinstance(data, Mapping) or set(data) != {"genes", "fixed"}:
            raise SpaceError(f"a space is an object with the keys genes and fixed, not {str(data)[:80]!r}.")
        genes, fixed = data["genes"], data["fixed"]
        if not isinstance(genes, list) or not isinstance(fixed, list):
            raise SpaceError(
                f"the genes and fixed choices of a space are lists, not {str(genes)[:80]!r} and {str(fixed)[:80]!r}."
            )
        return cls(tuple(map(Choice.from_json, genes)), tuple(map(Choice.from_json, fixed)))

    def fingerprint(self) -> str:
        """16 hexadecimal digits that differ whenever the spaces do."""
        return fingerprint_of(self.to_json())


def _abridged(names: tuple[str, ...] | list[str], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"
