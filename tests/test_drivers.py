"""Drivers: seeded, from the same corners, over integers alone, and better than chance."""

import numpy as np
import pytest

from nas_engine.front import SearchResult
from nas_engine.search import DRIVERS, DriverProblem, SearchError, make_driver
from nas_engine.search.loop import search
from nas_engine.search.operators import OrderedMutation
from tests.ordered import EVALUATORS, Ordered, space_of


def asked(driver: str, seed: int, batches: int = 40, failing: bool = False) -> np.ndarray:
    """All genomes that a driver asks for when objectives are simple sums."""
    space = space_of()
    made, genomes = make_driver(driver, DriverProblem(space, 2, 10, seed)), []
    for _ in range(batches):
        batch = made.ask()
        objectives = np.stack([batch.sum(axis=1), -np.sqrt(batch).sum(axis=1)], axis=1).astype(float)
        if failing:
            objectives[batch[:, 0] == 1] = np.nan
        made.tell(batch, objectives)
        genomes.append(batch)
    return np.vstack(genomes)


@pytest.mark.parametrize("driver", DRIVERS)
def test_driver_is_a_function_of_its_seed(driver: str) -> None:
    first, again, other = asked(driver, 0), asked(driver, 0), asked(driver, 1)
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


@pytest.mark.parametrize("driver", DRIVERS)
def test_first_generation_holds_largest_smallest_and_median(driver: str) -> None:
    space = space_of()
    genomes = asked(driver, 0)[:3]
    assert genomes.tolist() == [space.largest.tolist(), space.smallest.tolist(), space.median.tolist()]


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("failing", [False, True])
def test_genomes_are_integers_within_the_space(driver: str, failing: bool) -> None:
    genomes = asked(driver, 3, failing=failing)
    assert genomes.dtype == np.int64
    assert genomes.min() >= 0
    assert (genomes <= space_of().largest).all()


@pytest.mark.parametrize("driver", DRIVERS)
def test_one_objective_is_enough(driver: str) -> None:
    result = search(Ordered(space_of()), EVALUATORS[:1], driver, evaluations=30, population=8, progress=False)
    assert result.best(maximize="accuracy")["accuracy"] == pytest.approx(1.0)


def test_random_driver_asks_each_genome_once() -> None:
    genomes = asked("random", 0)
    assert len(np.unique(genomes, axis=0)) == len(genomes) == 400


def test_ordered_mutation_changes_one_gene_in_expectation_and_prefers_neighbours() -> None:
    from pymoo.core.problem import Problem

    X = np.full((4000, 10), 2)
    problem = Problem(n_var=10, xl=0, xu=np.full(10, 4), vtype=int)
    moved = OrderedMutation()._do(problem, X, random_state=np.random.default_rng(0))
    changed = moved != X
    assert changed.sum(axis=1).mean() == pytest.approx(1.0, abs=0.1)
    assert moved.min() == 0
    assert moved.max() == 4
    steps = np.abs(moved - X)[changed]
    assert (steps == 1).mean() > 0.75


def test_nsga2_is_ahead_of_random_search() -> None:
    def volume(driver: str, seed: int) -> float:
        run: SearchResult = search(Ordered(space_of(20, 5)), EVALUATORS, driver, 150, 20, seed, progress=False)
        return run.hypervolume().iloc[-1]

    wins = [volume("nsga2", seed) > volume("random", seed) for seed in range(5)]
    assert sum(wins) >= 4


def test_unknown_driver_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SearchError, match="'cma'; choose one of .*nsga2, .*optuna-nsga2, .*optuna-tpe, .*random"):
        make_driver("cma", DriverProblem(space_of(), 2, 10, 0))
    with pytest.raises(SearchError, match="population is 1"):
        make_driver("random", DriverProblem(space_of(), 2, 1, 0))
