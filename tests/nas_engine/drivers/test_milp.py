"""The driver whose proposals are exact: what it begins with, what it learns, and what it refuses."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest

from evaluators import Measurement
from nas_engine.drivers.driver import Driver, DriverProblem
from nas_engine.drivers.registry import make_driver
from nas_engine.errors import SearchError
from nas_engine.loop import search
from nas_engine.results.dominance import non_dominated
from tests.ordered import Configured, Cost, Ordered, Quality, space_of

SPACE = space_of(6, 4)
LOSSES = tuple(weight * np.array([1.0, 0.4, 0.1, 0.0]) for weight in (0.3, 0.1, 0.5, 0.05, 0.2, 0.4))
EVERYTHING = np.array(list(product(range(4), repeat=6)))
PRICES = np.array([1.0, 2.0, 1.5, 1.0, 1.2, 0.8])


def lost(genomes: np.ndarray) -> np.ndarray:
    return sum(of_gene[genomes[:, i]] for i, of_gene in enumerate(LOSSES))


def known(genomes: np.ndarray, costs: int = 1, bound: float | None = None) -> np.ndarray:
    """Nothing of the first objective, sums for the others, and by how much a sum exceeds its bound."""
    sums = [genomes @ PRICES, genomes @ PRICES[::-1]][:costs]
    missed = [] if bound is None else [genomes @ PRICES / bound - 1]
    return np.column_stack([np.full(len(genomes), np.nan), *sums, *missed])


def problem(seed: int = 0, costs: int = 1, bound: float | None = None, **changed) -> DriverProblem:
    arguments = {
        "space": SPACE,
        "objectives": 1 + costs,
        "population": 10,
        "seed": seed,
        "constraints": int(bound is not None),
        "computed": lambda genomes: known(genomes, costs, bound),
        "sensitivity": LOSSES,
    }
    return DriverProblem(**arguments | changed)


def asked(driver: Driver, count: int, costs: int = 1, bound: float | None = None, failing: bool = False) -> np.ndarray:
    genomes = np.empty((0, len(SPACE)), dtype=np.int64)
    while len(genomes) < count and len(batch := driver.ask()):
        told = known(batch, costs, bound)
        told[:, 0] = lost(batch) + 0.2 * (batch[:, 0] == 0) * (batch[:, 1] == 0)
        objectives, violations = np.split(told, [1 + costs], axis=1)
        if failing:
            objectives[batch[:, 3] == 1] = np.nan
        driver.tell(batch, objectives, violations if bound is not None else None)
        genomes = np.vstack([genomes, batch])
    return genomes


def test_corners_come_first_and_then_the_exact_front() -> None:
    driver = make_driver("milp", problem())
    first = asked(driver, 8)
    assert first[:3].tolist() == [SPACE.largest.tolist(), SPACE.smallest.tolist(), SPACE.median.tolist()]
    assert len(first) == 8
    losses, costs = lost(EVERYTHING), EVERYTHING @ PRICES
    for genome in first[3:]:
        assert lost(genome[None])[0] == pytest.approx(losses[costs <= genome @ PRICES + 1e-9].min())


@pytest.mark.parametrize("name", ["milp", "surrogate"])
@pytest.mark.parametrize("cliff", [0.15, 0.4, 0.8])
def test_where_quality_falls_off_a_cliff_the_warm_start_finds_it(name: str, cliff: float) -> None:
    driver, genomes = make_driver(name, problem(population=12)), np.empty((0, len(SPACE)), dtype=np.int64)

    def fallen(genomes: np.ndarray) -> np.ndarray:
        return (lost(genomes) > cliff).astype(float)

    while len(genomes) < 7:  # a genome more than there are genes
        batch = driver.ask()
        driver.tell(batch, np.column_stack([fallen(batch), batch @ PRICES]))
        genomes = np.vstack([genomes, batch])
    standing = EVERYTHING[lost(EVERYTHING) <= cliff]
    costs = genomes[fallen(genomes) == 0] @ PRICES
    # Of 24 that there are between the largest and nothing, within three of the cheapest that stands.
    assert costs.min() <= (standing @ PRICES).min() + 3.0


@pytest.mark.parametrize(("costs", "failing", "bound"), [(1, True, None), (1, False, 12.0), (2, True, 12.0)])
def test_genomes_are_a_function_of_the_seed_and_none_is_asked_twice(costs: int, failing: bool, bound) -> None:
    first, again = (asked(make_driver("milp", problem(0, costs, bound)), 14, costs, bound, failing) for _ in range(2))
    assert np.array_equal(first, again)
    assert len(np.unique(first, axis=0)) == len(first) >= 14
    assert first.min() >= 0
    assert (first <= SPACE.largest).all()


def test_a_bound_of_what_is_computed_is_kept_by_all_but_the_corners() -> None:
    genomes = asked(make_driver("milp", problem(bound=8.0)), 18, bound=8.0)
    assert (genomes[3:8] @ PRICES <= 8.0 + 1e-9).all()
    assert (genomes[8:] @ PRICES <= 8.0 + 1e-9).mean() > 0.8


def test_most_proposals_keep_a_bound_of_what_is_measured_which_no_budget_knows() -> None:
    """Once a few were measured; a quarter of all would by chance."""
    most = 0.25
    driver = make_driver(
        "milp",
        problem(
            constraints=1, computed=lambda genomes: np.column_stack([known(genomes), np.full(len(genomes), np.nan)])
        ),
    )
    asked_for = []
    for _ in range(12):
        batch = driver.ask()
        told = known(batch)
        told[:, 0] = lost(batch)
        driver.tell(batch, told, told[:, :1] / most - 1)
        asked_for.append(batch)
    later = np.vstack(asked_for[1:])
    assert (lost(EVERYTHING) <= most).mean() < 0.25
    assert (lost(later) <= most).mean() > 0.7


def test_one_objective_under_a_bound_is_found_at_once() -> None:
    bound = 9.0
    genomes = asked(make_driver("milp", problem(costs=0, bound=bound)), 10, costs=0, bound=bound)
    within = bound >= EVERYTHING @ PRICES
    assert lost(genomes[(genomes @ PRICES <= bound)]).min() == pytest.approx(lost(EVERYTHING[within]).min())


def test_a_small_space_is_asked_whole() -> None:
    space = space_of(2, 3)
    hint = (np.array([1.0, 0.5, 0.0]),) * 2
    computed = lambda genomes: np.column_stack([np.full(len(genomes), np.nan), genomes.sum(axis=1)])  # noqa: E731
    driver = make_driver("milp", DriverProblem(space, 2, 4, computed=computed, sensitivity=hint))
    seen: set[bytes] = set()
    while len(batch := driver.ask()):
        seen |= {genome.tobytes() for genome in batch}
        driver.tell(batch, np.column_stack([-batch.sum(axis=1), batch.sum(axis=1)]).astype(float))
    assert len(seen) == 9


def volume(driver: str, count: int, hint: tuple, truth: list[np.ndarray]) -> float:
    """What the front of `count` evaluations dominates where losses are `truth` and every gene costs the same."""
    space, most = space_of(16, 4), sum(of_gene.max() for of_gene in truth)

    def computed(genomes: np.ndarray) -> np.ndarray:
        return np.column_stack([np.full(len(genomes), np.nan), genomes.mean(axis=1) / 3])

    made = make_driver(driver, DriverProblem(space, 2, 20, computed=computed, evaluations=count, sensitivity=hint))
    points = np.empty((0, 2))
    while len(points) < count:
        genomes = made.ask()
        told = np.column_stack([sum(t[genomes[:, i]] for i, t in enumerate(truth)) / most, computed(genomes)[:, 1]])
        made.tell(genomes, told)
        points = np.vstack([points, told])
    front = points[:count][non_dominated(points[:count])]
    front = front[np.argsort(front[:, 0])]
    return float((np.diff(np.append(front[:, 0], 1.0)) * (1 - front[:, 1])).sum())


def test_measurements_correct_what_was_expected() -> None:
    rng = np.random.default_rng(5)
    truth = [weight * np.linspace(1, 0, 4) ** 2 for weight in 0.05 * rng.lognormal(0, 1.5, 16)]  # in nats
    misled = tuple(truth[i] for i in rng.permutation(16))  # what is true of other genes
    told = tuple(truth)
    assert volume("milp", 36, misled, truth) > volume("milp", 20, misled, truth) + 0.05
    assert volume("milp", 20, told, truth) > volume("surrogate", 40, None, truth)


@dataclass(frozen=True)
class Sum(Cost):
    """A cost that follows from sizes."""

    computed: bool = True


@dataclass(frozen=True)
class Product(Cost):
    """One that does too, and is no sum over layers."""

    computed: bool = True

    def __call__(self, subnet: Configured) -> Measurement:
        return Measurement(float(np.prod(list(subnet.configuration.values()))))


HINT = {gene.name: [1.0, 0.5, 0.2, 0.0] for gene in space_of().genes}


def run(**changed):
    arguments = {"driver": "milp", "evaluations": 14, "population": 8, "progress": False, "sensitivity": HINT}
    return search(Ordered(space_of()), **{"evaluators": [Quality(), Sum()]} | arguments | changed)


def test_search_that_was_cut_off_goes_on_as_the_whole_one(tmp_path) -> None:
    whole, _ = run(), run(evaluations=10, storage=tmp_path)
    assert run(storage=tmp_path).frame.equals(whole.frame)
    assert run(storage=tmp_path).frame.equals(whole.frame)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sensitivity": None}, "give sensitivity=supernet.sensitivity"),
        ({"evaluators": [Quality(), Cost()]}, "foretells one objective that is measured, and 2 of these 2 are"),
        ({"evaluators": [Quality(), Product()]}, "foretells one objective that is measured, and 2 of these 2 are"),
        ({"evaluators": [Sum()]}, "and 0 of these 1 are"),
        ({"evaluators": [Quality()]}, "keeps budgets of what is computed, and nothing here is"),
        ({"constraints": ["latency <= 10"]}, "no sub-network keeps all computed constraints"),
    ],
)
def test_what_it_cannot_search_is_refused_before_any_evaluation(changed: dict, message: str, tmp_path) -> None:
    with pytest.raises(SearchError, match=message):
        run(**changed, storage=tmp_path / "run")
    assert not (tmp_path / "run").exists()
