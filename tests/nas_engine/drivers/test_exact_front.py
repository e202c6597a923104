"""The least summed loss under budgets: what trying every genome finds, of blocks whose genes interact."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_engine.drivers.additive import Additive, costs_of
from nas_engine.drivers.effort import EXACT, Effort
from nas_engine.drivers.exact_front import exact_front, spread_budgets
from nas_engine.drivers.interactions import interacting_genes
from nas_engine.drivers.knapsack import Knapsack
from nas_engine.goal.computed import tabulate
from search_spaces import Choice, SearchSpace
from tests.ordered import space_of

BY_SUMS, BY_HIGHS = EXACT, Effort(sums=0)
numbers = st.integers(0, 40).map(lambda n: n / 8)  # with ties, and sums that meet a budget exactly


def blocks(layers: int) -> SearchSpace:
    """In each layer a block that may be left out, its width, and the bits of one projection."""
    genes = []
    for i in range(layers):
        genes += [
            Choice(f"layers.{i}.keep", (0, 1), (f"layers.{i}.mlp",), "layer_skip"),
            Choice(f"layers.{i}.width", (8, 16, 24), (f"layers.{i}.mlp",), "mlp_width"),
            Choice(f"layers.{i}.bits", (4, 8), (f"layers.{i}.up",), "weight_bits"),
        ]
    return SearchSpace.of(genes)


def everything(space: SearchSpace) -> np.ndarray:
    return np.array(list(product(*(range(len(gene)) for gene in space.genes))))


@st.composite
def problems(draw) -> tuple[SearchSpace, list[np.ndarray], list[np.ndarray]]:
    """A space, a sensitivity, and weights of one or two costs."""
    space = blocks(draw(st.integers(1, 3)))
    losses = [np.array([*(draw(numbers) for _ in range(len(gene) - 1)), 0.0]) for gene in space.genes]
    prices = [np.array([draw(numbers) for _ in range(len(space) // 3)]) for _ in range(draw(st.integers(1, 2)))]
    return space, losses, prices


def cost_of(prices: list[np.ndarray]):
    """Width times bits where a block is kept: genes of a layer interact, and a skipped block's are worth nothing."""

    def cost(genomes: np.ndarray) -> np.ndarray:
        keep, width, bits = (genomes.reshape(len(genomes), -1, 3)[..., i] for i in range(3))
        return np.stack([(keep * (width + 1) * (bits + 1) * price).sum(axis=1) for price in prices], axis=1)

    return cost


@settings(max_examples=25, deadline=None)
@given(problems(), st.lists(st.floats(0, 1.1), min_size=2, max_size=4), st.sampled_from([BY_SUMS, BY_HIGHS]))
def test_no_genome_within_the_budgets_loses_less(problem, shares: list[float], effort: Effort) -> None:
    space, losses, prices = problem
    cost = cost_of(prices)
    sums = Additive.of(space, losses, cost)
    if sums is None:  # nothing costs anything
        assert all((price == 0).all() for price in prices)
        return
    genomes = everything(space)
    lost, spent = costs_of(genomes, losses).sum(axis=1), cost(genomes)
    # Some budgets are exactly what a genome costs.
    met = spent[[int(share * (len(genomes) - 1)) % len(genomes) for share in shares]]
    budgets = np.vstack([np.outer(shares, sums.base), met, met - 1e-3, spread_budgets(sums, 3, range(len(prices)))])
    for budget, found in zip(budgets, exact_front(sums, budgets, effort), strict=True):
        within = (spent <= budget + 1e-9).all(axis=1)
        if not within.any():
            assert found is None
            continue
        assert found is not None
        assert found.loss == pytest.approx(lost[within].min(), abs=1e-9)
        assert costs_of(found.genome[None], losses).sum() == pytest.approx(found.loss)
        assert cost(found.genome[None])[0] == pytest.approx(found.costs)
        assert (found.costs <= budget + 1e-9).all()
        assert found.gap == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([BY_SUMS, BY_HIGHS]))
def test_costs_that_pull_apart_are_kept_together(seed: int, effort: Effort) -> None:
    rng = np.random.default_rng(seed)
    blocks_of_choices, costs = 4, 3
    losses = [rng.integers(0, 9, 4) / 4 for _ in range(blocks_of_choices)]
    spent = [rng.integers(0, 9, (4, costs)) / 4 for _ in range(blocks_of_choices)]
    choices = np.array(list(product(range(4), repeat=blocks_of_choices)))
    lost = sum(losses[i][choices[:, i]] for i in range(blocks_of_choices))
    total = sum(spent[i][choices[:, i]] for i in range(blocks_of_choices))
    knapsack = Knapsack(losses, spent)
    for budget in (*total[rng.integers(0, len(total), 3)], np.quantile(total, 0.4, axis=0), np.full(costs, 2.0)):
        within = (total <= budget + 1e-12).all(axis=1)
        found = knapsack.solved(budget, effort)
        assert (found is not None) == within.any()
        if found is not None:
            chosen = (choices == found[0]).all(axis=1)
            assert within[chosen].all()
            assert lost[chosen] == pytest.approx(lost[within].min())


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 2))
def test_sums_of_blocks_and_branch_and_cut_agree_where_no_genome_can_be_tried(seed: int, costs: int) -> None:
    rng, space = np.random.default_rng(seed), blocks(10)
    losses = [np.append(rng.exponential(size=len(gene) - 1), 0.0) for gene in space.genes]
    sums = Additive.of(space, losses, cost_of(list(rng.lognormal(size=(costs, 10)))))
    assert sums is not None
    budgets = sums.least_costs + np.linspace(0, 1, 5)[:, None] * (sums.base - sums.least_costs)
    for one, other in zip(exact_front(sums, budgets, BY_SUMS), exact_front(sums, budgets, BY_HIGHS), strict=True):
        assert one is not None
        assert other is not None
        assert one.loss == pytest.approx(other.loss, rel=1e-6)


def test_losses_of_joint_choices_need_be_no_sums_of_genes() -> None:
    space, rng = blocks(3), np.random.default_rng(0)
    cost = cost_of([np.ones(3)])
    sums = Additive.of(space, [np.zeros(len(gene)) for gene in space.genes], cost)
    assert sums is not None
    joint = sums.with_losses([rng.normal(size=len(values)) for values in sums.values])  # some choices gain
    genomes = everything(space)
    lost, spent = joint.losses_at(genomes), cost(genomes)[:, 0]
    for found in exact_front(joint, spread_budgets(joint, 7)):
        assert found is not None
        assert found.loss == pytest.approx(lost[spent <= found.costs[0] + 1e-9].min())


def test_a_gap_is_kept_and_told() -> None:
    space, rng = blocks(10), np.random.default_rng(1)
    losses = [np.append(rng.exponential(size=len(gene) - 1), 0.0) for gene in space.genes]
    sums = Additive.of(space, losses, cost_of([rng.lognormal(size=10)]))
    assert sums is not None
    budgets = spread_budgets(sums, 12)
    best, quick = exact_front(sums, budgets), exact_front(sums, budgets, Effort(gap=0.5))
    assert any(q.gap > 0 for q in quick if q)
    for b, q in zip(best, quick, strict=True):
        assert b is not None
        assert q is not None
        assert b.gap == 0
        assert b.loss <= q.loss + 1e-12
        assert q.loss * (1 - q.gap) <= b.loss + 1e-9
        assert q.gap <= 0.5


def test_choices_beyond_what_is_kept_are_thinned_out_and_budgets_still_hold() -> None:
    space, rng = blocks(3), np.random.default_rng(2)
    losses = [np.append(np.sort(rng.exponential(size=len(gene) - 1))[::-1], 0.0) for gene in space.genes]
    whole = Additive.of(space, losses, cost_of([np.ones(3)]))
    assert whole is not None
    thin = whole.efficient(kept=3)
    assert max(map(len, thin.losses)) <= 3 < max(map(len, whole.efficient().losses))
    assert thin.least_costs == pytest.approx(whole.least_costs)
    assert exact_front(thin, whole.base[None])[0].loss == 0


@pytest.mark.parametrize(
    ("field", "message"),
    [({"gap": -1}, "gap is"), ({"nodes": 0}, "nodes is"), ({"seconds": 0}, "seconds is"), ({"sums": -1}, "sums is")],
)
def test_effort_out_of_range_is_refused(field: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(EXACT, **field)


def test_what_is_no_sum_over_layers_is_told_apart() -> None:
    space = space_of(4, 3)
    losses = [np.linspace(1, 0, 3)] * 4
    assert Additive.of(space, losses, lambda g: g.sum(axis=1)) is not None
    assert Additive.of(space, losses, lambda g: g.prod(axis=1)) is None
    assert Additive.of(space, losses, lambda g: np.full(len(g), 3.0)) is None
    assert Additive.of(space, losses, lambda g: np.full(len(g), np.nan)) is None


def projections(layers: int) -> SearchSpace:
    """Bits of seven projections and the MLP's width in every layer: 49,152 joint choices each."""
    names = ("q", "k", "v", "o", "gate", "up", "down")
    genes = []
    for i in range(layers):
        genes += [Choice(f"layers.{i}.{n}.bits", (2, 4, 8, 16), (f"layers.{i}.{n}",), "weight_bits") for n in names]
        genes.append(Choice(f"layers.{i}.width", (8, 16, 32), (f"layers.{i}.mlp",), "mlp_width"))
    return SearchSpace.of(genes)


def bytes_of(genome: np.ndarray) -> float:
    bits, width = np.array([2, 4, 8, 16])[genome.reshape(-1, 8)[:, :7]], np.array([8, 16, 32])[genome[7::8]]
    return float((bits[:, :4].sum(axis=1) * 16 + bits[:, 4:].sum(axis=1) * width).sum())


def test_layers_of_many_genes_fall_into_blocks_that_interact() -> None:
    space = projections(2)
    found = interacting_genes(space, lambda genomes: np.array([[bytes_of(g)] for g in genomes]), 4096)
    assert found is not None
    assert sorted(map(len, found)) == [1] * 8 + [4] * 2  # the width joins the bits of gate, up and down
    table = tabulate(bytes_of, space)
    assert table is not None
    genomes = space.sample(np.random.default_rng(5), 30)
    assert table(genomes) == pytest.approx([bytes_of(genome) for genome in genomes])
    assert tabulate(lambda genome: float(np.prod(genome + 1.0)), space) is None


def test_front_of_ninety_six_genes_is_found_at_once() -> None:
    space, rng = blocks(32), np.random.default_rng(0)
    losses = [np.append(rng.exponential(size=len(gene) - 1), 0.0) for gene in space.genes]
    sums = Additive.of(space, losses, cost_of([np.ones(32)]))  # equal layers: most sums of costs are met many times
    assert sums is not None
    found = exact_front(sums, spread_budgets(sums, 20), Effort(nodes=1))  # were HiGHS asked, it would give up
    assert all(solution is not None and solution.gap == 0 for solution in found)
    assert np.all(np.diff([s.loss for s in found if s]) <= 0)
