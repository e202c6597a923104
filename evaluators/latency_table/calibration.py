"""Which sub-networks to time so that the costs of blocks follow, and their times relative to the largest one's."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from evaluators.latency.evaluator import Latency, LatencyReport
from evaluators.latency.exclusive import alone
from evaluators.latency_table.block_costs import BlockKnots, DecoderCosts, fit_costs
from evaluators.operators.decoder import LayerSizes
from evaluators.protocol import Subnetwork
from search_spaces import Choice, Configuration, Genome, ModuleName, SearchSpace

Progress = Callable[[int, int], object]
"""Called with how many sub-networks are timed, and of how many."""

_IN_TURNS = 4  # sub-networks timed in turns with one reference: more would need more memory, fewer more time


class Calibratable(Protocol):
    """What calibration needs of a super-network."""

    @property
    def space(self) -> SearchSpace:
        """What may vary."""
        ...

    def subnetwork(self, configuration: Configuration) -> Subnetwork:
        """The sub-network of a configuration."""
        ...


def calibrated_costs(
    supernet: Calibratable, latency: Latency, levels: int, samples: int, seed: int, progress: Progress | None
) -> DecoderCosts:
    """Time sub-networks of `supernet`, and fit the milliseconds of blocks to them; see `LatencyTable.calibrate`."""
    space = supernet.space
    even = [space.configuration(genome) for genome in even_genomes(space, levels)]
    random = [space.configuration(genome) for genome in space.sample(np.random.default_rng(seed), samples)]
    largest, *others = _of_different_sizes([supernet.subnetwork(configuration) for configuration in [*even, *random]])
    sizes = [subnet.layer_sizes for subnet in [largest, *others]]
    attention, mlp = _knots([supernet.subnetwork(configuration).layer_sizes for configuration in even], sizes)
    # Where no size varies, the largest is all there is to time.
    reports = list(reports_in_turns(latency, others or [largest], largest, progress))
    # The scale comes from all groups, so that a moment in which the machine was busy elsewhere does not set it.
    whole = statistics.median(1e3 * report.reference.median for report in reports if report.reference is not None)
    times = [whole, *(whole * report.ratio for report in reports if report.ratio is not None)][: len(sizes)]
    return fit_costs(sizes, times, attention, mlp)


def even_genomes(space: SearchSpace, levels: int) -> list[Genome]:
    """Genomes in which all genes of a kind have the same level and the others their largest value, the largest first.

    Blocks are left out everywhere, and both blocks of every other layer; the smallest of all says what no block costs.
    Choices of more than `levels` values are cut to that many, evenly.
    """
    kinds: defaultdict[tuple[str, frozenset[str]], list[int]] = defaultdict(list)
    for i, gene in enumerate(space.genes):
        kinds[gene.dimension, _blocks(gene)].append(i)
    genomes = [space.largest]
    for genes in kinds.values():
        steps = min(levels, max(len(space.genes[i]) for i in genes))
        for level in range(steps - 1):
            genome = space.largest
            for i in genes:
                genome[i] = round(level / (steps - 1) * genome[i])
            genomes.append(genome)
    every_other = space.largest
    for i, gene in enumerate(space.genes):
        if gene.dimension == "layer_skip" and gene.layer % 2:
            every_other[i] = 0
    return [*genomes, every_other, space.smallest]


def reports_in_turns(
    latency: Latency, subnets: Sequence[Subnetwork], reference: Subnetwork | None, progress: Progress | None = None
) -> Iterator[LatencyReport]:
    """Time `subnets`, a few at a time in turns with `reference`.

    Raises:
        BusyError: as of `Latency.report`.
    """
    first = [] if reference is None else [latency.deployed(reference)]
    for start in range(0, len(subnets), _IN_TURNS):
        with alone(latency.device, latency.wait_seconds):
            models = [latency.deployed(subnet) for subnet in subnets[start : start + _IN_TURNS]]
            timings = latency.time_models([*first, *models])
        for timing in timings[len(first) :]:
            yield LatencyReport(timing, timings[0] if first else None)
        if progress is not None:
            progress(start + len(models), len(subnets))


def _blocks(gene: Choice) -> frozenset[str]:
    return frozenset(ModuleName.parse(module).name for module in gene.modules)


def _of_different_sizes(subnets: Sequence[Subnetwork]) -> list[Subnetwork]:
    """The first of each size: ranks do not count, for adapters are merged."""
    first: dict[tuple[tuple[int, int], ...], Subnetwork] = {}
    for subnet in subnets:
        first.setdefault(tuple((layer.heads, layer.intermediate_size) for layer in subnet.layer_sizes), subnet)
    return list(first.values())


def _knots(
    even: Sequence[tuple[LayerSizes, ...]], every: Sequence[tuple[LayerSizes, ...]]
) -> tuple[BlockKnots, BlockKnots]:
    def knots(what: str, field: str) -> BlockKnots:
        sizes = {getattr(layer, field) for layers in even for layer in layers} - {0}
        seen = {getattr(layer, field) for layers in every for layer in layers}
        return BlockKnots(what, tuple(sorted(sizes)), 0 in seen)

    return knots("attention heads", "heads"), knots("MLP width", "intermediate_size")
