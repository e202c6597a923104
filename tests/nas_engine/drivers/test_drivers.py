"""Drivers: seeded, from the same corners, over integers alone, and better than chance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_engine.drivers.driver import DriverProblem
from nas_engine.drivers.operators import later_rates, layer_masks, neighbours, ordered_mutation
from nas_engine.drivers.pymoo_driver import PymooDriver
from nas_engine.drivers.random_driver import RandomDriver
from nas_engine.drivers.registry import DRIVERS, NEEDS_SENSITIVITY, make_driver
from nas_engine.drivers.surrogate import SurrogateDriver
from nas_engine.drivers.surrogate.features import FeatureMap
from nas_engine.drivers.surrogate.hint import spread_places
from nas_engine.drivers.surrogate.scale import explains_better
from nas_engine.errors import SearchError
from nas_engine.loop import search
from nas_engine.results.result import SearchResult
from search_spaces import ModelShape, lora_rank, mlp_width, weight_bits
from tests.ordered import EVALUATORS, Ordered, space_of

GP = "optuna-gp"  # seconds an evaluation: it has a short test of its own
# Without the one that stands for another of them, and those that have tests of their own with what they need.
QUICK = [driver for driver in DRIVERS if driver not in (GP, "auto", *NEEDS_SENSITIVITY)]


def asked(
    driver: str, seed: int, count: int = 40, objectives: int = 2, failing: bool = False, bound: float | None = None
) -> np.ndarray:
    """The genomes that a driver asks for when objectives are simple sums, one of them bounded from above."""
    space = space_of()
    problem = DriverProblem(space, objectives, 10, seed, constraints=int(bound is not None), evaluations=count)
    made, genomes = make_driver(driver, problem), np.empty((0, len(space)), dtype=np.int64)
    while len(genomes) < count:
        batch = made.ask()
        sums = [batch.sum(axis=1), -np.sqrt(batch).sum(axis=1), batch[:, 0] - batch[:, 1], batch[:, 2] ** 2]
        told = np.stack(sums[:objectives], axis=1).astype(float)
        if failing:
            told[batch[:, 0] == 1] = np.nan
        made.tell(batch, told, None if bound is None else told[:, :1] - bound)
        genomes = np.vstack([genomes, batch])
    return genomes


@pytest.mark.parametrize("driver", QUICK)
def test_driver_is_a_function_of_its_seed(driver: str) -> None:
    first, again, other = asked(driver, 0), asked(driver, 0), asked(driver, 1)
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_gaussian_process_of_optuna_is_a_function_of_its_seed_and_repeats_nothing() -> None:
    first, again = asked(GP, 0, count=14), asked(GP, 0, count=14)
    assert np.array_equal(first, again)
    assert len(np.unique(first, axis=0)) == len(first)


@pytest.mark.parametrize("driver", QUICK)
def test_first_genomes_are_largest_smallest_and_median(driver: str) -> None:
    space = space_of()
    genomes = asked(driver, 0, count=3)[:3]
    assert genomes.tolist() == [space.largest.tolist(), space.smallest.tolist(), space.median.tolist()]


@pytest.mark.parametrize("driver", QUICK)
@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("bound", [None, 10.0])
def test_genomes_are_integers_within_the_space_and_none_is_asked_twice(driver: str, failing: bool, bound) -> None:
    genomes = asked(driver, 3, failing=failing, bound=bound)
    assert genomes.dtype == np.int64
    assert genomes.min() >= 0
    assert (genomes <= space_of().largest).all()
    assert len(np.unique(genomes, axis=0)) == len(genomes)


@pytest.mark.parametrize("driver", QUICK)
@pytest.mark.parametrize("objectives", [1, 3, 4])
def test_any_number_of_objectives_will_do(driver: str, objectives: int) -> None:
    assert len(asked(driver, 0, count=30, objectives=objectives)) >= 30


@pytest.mark.parametrize("driver", QUICK)
def test_one_objective_finds_its_best(driver: str) -> None:
    result = search(Ordered(space_of()), EVALUATORS[:1], driver=driver, evaluations=30, population=8, progress=False)
    assert result.best(maximize="accuracy")["accuracy"] == pytest.approx(1.0)


@pytest.mark.parametrize("driver", [d for d in QUICK if d != "random"])
def test_driver_looks_where_the_constraint_is_met(driver: str) -> None:
    def met(name: str) -> int:
        return sum(int((asked(name, seed, count=60, bound=8.0).sum(axis=1)[20:60] <= 8).sum()) for seed in range(2))

    assert met(driver) > 2 * met("random")


@pytest.mark.parametrize("driver", ["hill-climbing", "local-search"])
def test_local_drivers_step_from_what_they_know(driver: str) -> None:
    genomes = asked(driver, 0, count=60)
    for i in range(10, 60):
        distances = np.abs(genomes[:i] - genomes[i]).sum(axis=1)
        assert distances.min() == 1 or i < 13


def test_ordered_mutation_changes_one_gene_in_expectation_and_prefers_neighbours() -> None:
    X = np.full((4000, 10), 2)
    moved = ordered_mutation(X, np.full(10, 4), np.random.default_rng(0))
    changed = moved != X
    assert changed.sum(axis=1).mean() == pytest.approx(1.0, abs=0.1)
    assert moved.min() == 0
    assert moved.max() == 4
    steps = np.abs(moved - X)[changed]
    assert (steps == 1).mean() > 0.75


def test_later_layers_mutate_more_and_one_gene_changes_on_average() -> None:
    for layers in (np.repeat(np.arange(5), 2), np.tile(np.arange(5), 2), np.array([0, 7, 7, 7]), np.zeros(3, int)):
        rates = later_rates(layers)
        assert rates.sum() == pytest.approx(1.0)
        assert rates.min() > 0
        assert (np.diff(rates[np.argsort(layers, kind="stable")]) >= 0).all()
    X = np.full((4000, 10), 2)
    moved = ordered_mutation(X, np.full(10, 4), np.random.default_rng(0), rates=np.array([0.0] * 8 + [0.5, 0.2]))
    assert (moved != X).mean(axis=0) == pytest.approx([0.0] * 8 + [0.5, 0.2], abs=0.05)


def test_first_layers_stay_with_one_parent() -> None:
    masks = layer_masks(np.arange(10), 500, np.random.default_rng(0))
    assert masks[:, :3].all()
    assert set(masks.sum(axis=1).tolist()) == set(range(3, 10))


def test_neighbours_are_all_genomes_one_step_away() -> None:
    top = np.array([1, 2, 3])
    every = np.stack(np.unravel_index(np.arange(24), (2, 3, 4)), axis=1)
    for genome in every:
        expected = {tuple(g) for g in every.tolist() if np.abs(np.array(g) - genome).sum() == 1}
        assert {tuple(g) for g in neighbours(genome, top).tolist()} == expected


def test_layer_cut_takes_whole_layers_from_the_first_parent() -> None:
    layers = np.array([0, 1, 2, 0, 1, 2])  # as in a sum of two dimensions
    masks = layer_masks(layers, 200, np.random.default_rng(0))
    assert {tuple(mask) for mask in masks.tolist()} == {
        (True, False, False, True, False, False),
        (True, True, False, True, True, False),
    }


def test_automatic_choice_depends_on_budget_and_on_what_is_computed() -> None:
    space = space_of()
    known = lambda genomes: np.zeros((len(genomes), 2))  # noqa: E731
    partly = lambda genomes: np.array([[0.0, np.nan]] * len(genomes))  # noqa: E731
    for problem, expected in (
        (DriverProblem(space, 2, evaluations=200, computed=partly), SurrogateDriver),
        (DriverProblem(space, 2, evaluations=200), SurrogateDriver),
        (DriverProblem(space, 2, evaluations=200, computed=known), PymooDriver),
        (DriverProblem(space, 2, evaluations=5000), PymooDriver),
        (DriverProblem(space, 2), PymooDriver),
        (DriverProblem(space_of(2, 3), 2, evaluations=9), RandomDriver),
    ):
        assert type(make_driver("auto", problem)) is expected


def volume(driver: str, evaluations: int, seed: int) -> float:
    run: SearchResult = search(
        Ordered(space_of(20, 5)),
        EVALUATORS,
        driver=driver,
        evaluations=evaluations,
        population=20,
        seed=seed,
        progress=False,
    )
    return run.hypervolume().iloc[-1]


def test_nsga2_is_ahead_of_random_search() -> None:
    assert sum(volume("nsga2", 150, seed) > volume("random", 150, seed) for seed in range(5)) >= 4


def test_surrogate_needs_a_third_of_what_nsga2_needs() -> None:
    assert sum(volume("surrogate", 50, seed) > volume("nsga2", 150, seed) for seed in range(4)) >= 3


def test_batches_of_the_surrogate_grow_with_what_it_knows() -> None:
    def sizes(genes: int, population: int, batches: int) -> list[int]:
        driver, found = SurrogateDriver(DriverProblem(space_of(genes, 5), 2, population)), []
        while len(found) < batches:
            genomes = driver.ask()
            driver.tell(genomes, np.stack([genomes.sum(axis=1), -np.sqrt(genomes).sum(axis=1)], axis=1))
            found.append(len(genomes))
        return found

    assert sizes(5, 20, 13) == [8, *[2] * 11, 3]
    assert sizes(12, 20, 2) == [13, 2]
    assert sizes(30, 20, 2) == [20, 2]
    assert sizes(12, 4, 2) == [4, 1]


def test_surrogate_begins_with_each_dimension_alone() -> None:
    template = lora_rank((32, 16, 8)) + mlp_width((1.0, 0.75, 0.5)) + weight_bits((16, 8, 4))
    space = template.bind(ModelShape((64,) * 4))
    dimensions = np.array([gene.dimension for gene in space.genes])
    for population, found in ((20, 6), (8, 4)):  # at most half of the first batch
        first = SurrogateDriver(DriverProblem(space, 2, population)).ask()
        assert len(first) == len(np.unique(first, axis=0)) == min(population, len(space) + 1)
        alone = [np.where(dimensions == d, level, 2) for level in (0, 1) for d in dict.fromkeys(dimensions)]
        assert all((first == genome).all(axis=1).any() for genome in alone[:found])


def told(objective, seed: int, count: int = 28) -> np.ndarray:
    """What a surrogate asks for when a sum of genes, given as `objective` of it, stands against their number."""
    space = space_of(6, 4)
    driver, genomes = SurrogateDriver(DriverProblem(space, 2, 12, seed)), np.empty((0, len(space)), dtype=np.int64)
    weights = np.linspace(1, 3, len(space))
    while len(genomes) < count:
        batch = driver.ask()
        driver.tell(batch, np.stack([batch.sum(axis=1), objective(-batch @ weights)], axis=1).astype(float))
        genomes = np.vstack([genomes, batch])
    return genomes


@pytest.mark.parametrize("seed", range(3))
def test_surrogate_of_a_score_that_spans_magnitudes_asks_what_it_asks_of_the_logarithm(seed: int) -> None:
    assert np.array_equal(told(np.exp, seed), told(lambda score: score, seed))


def test_surrogate_goes_on_where_a_positive_score_turns_negative() -> None:
    calls = iter(range(1000))
    genomes = told(lambda score: np.exp(score) if next(calls) < 10 else score, 0)
    assert len(np.unique(genomes, axis=0)) == len(genomes) >= 28


def test_logarithm_is_taken_where_it_explains_better() -> None:
    space = space_of(6, 4)
    genomes = np.random.default_rng(0).integers(0, 4, (40, len(space)))
    features, sums = FeatureMap(space)(genomes), genomes @ np.linspace(1, 3, len(space)) / 4
    assert explains_better(features, np.exp(sums))
    assert not explains_better(features, 1 + sums)
    assert not explains_better(features, -np.exp(sums))
    assert not explains_better(features, np.full(40, 2.0))


def test_unknown_driver_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SearchError, match="'cma'; choose one of .*nsga2, .*optuna-nsga2, .*optuna-tpe, .*random"):
        make_driver("cma", DriverProblem(space_of(), 2, 10, 0))
    with pytest.raises(SearchError, match="population is 1"):
        make_driver("random", DriverProblem(space_of(), 2, 1, 0))


@settings(max_examples=50, deadline=None)
@given(costs=st.lists(st.floats(0, 1e6), min_size=1, max_size=40), count=st.integers(1, 12))
def test_hinted_places_are_different_and_as_many_as_asked(costs: list[float], count: int) -> None:
    places = spread_places(np.sort(costs), count)
    assert len(np.unique(places)) == len(places)
    assert 1 <= len(places) <= min(count, len(costs))
    assert len(places) == min(count, len(costs)) or len(np.unique(costs)) < len(costs)


def test_few_hints_go_where_a_network_knows_nothing() -> None:
    costs = np.linspace(0, 29, 60)  # nats: sums over dozens of blocks
    places = spread_places(costs, 7)
    assert (costs[places] < 2.5).sum() >= 4
    assert places[0] == 0
    assert places[-1] == 59
