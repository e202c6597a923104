"""Constraints and computed scores: what is read, what counts as feasible, and what a driver knows without asking."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators import Macs, ParameterCount
from nas_engine.errors import SearchError, SelectionError
from nas_engine.goal.computed import tabulate
from nas_engine.goal.constraints import Constraint, parse_constraint, violations
from nas_engine.goal.goal import Goal
from nas_engine.loop import search
from search_spaces import Choice, SearchSpace
from tests.nas_engine.test_search import Failing, raising
from tests.ordered import EVALUATORS, Cost, Ordered, Quality, space_of
from tests.supernets import EVERY_DIMENSION, supernetwork
from tests.tiny import tiny_llama

NAMES = ["accuracy", "latency"]


class ComputedCost(Cost):
    """A cost that says that it is computed."""

    computed = True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("accuracy >= 0.5", Constraint("", "accuracy", False, 0.5)),
        ("latency<=1e2", Constraint("", "latency", True, 100.0)),
        ("latency <= 0.7 * reference", Constraint("", "latency", True, 0.0, 0.7, "latency")),
        ("accuracy >= reference - 0.01", Constraint("", "accuracy", False, -0.01, 1.0, "accuracy")),
        ("latency <= .5*reference.accuracy + 3", Constraint("", "latency", True, 3.0, 0.5, "accuracy")),
    ],
)
def test_constraint_is_read(text: str, expected: Constraint) -> None:
    assert replace(parse_constraint(text, NAMES), text="") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accuracy", "'accuracy' cannot be read. Write an objective"),
        ("accuracy > 0.5", "cannot be read"),
        ("energy <= 3", "is on 'energy'; the evaluators are accuracy, latency"),
        ("latency <= 2 * largest", "bound of the constraint .* cannot be read: '2 \\* largest'"),
        ("latency <= 2 * reference.energy", "refers to 'energy'; the evaluators are accuracy, latency"),
    ],
)
def test_constraint_that_cannot_be_read_says_what_can(text: str, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        parse_constraint(text, NAMES)


@settings(deadline=None)
@given(st.floats(-5, 5), st.floats(0.1, 2), st.floats(-5, 5), st.booleans())
def test_violation_is_positive_exactly_where_the_constraint_is_missed(value, factor, reference, at_most) -> None:
    sense = "<=" if at_most else ">="
    constraint = parse_constraint(f"latency {sense} {factor!r} * reference", ["latency"])
    missed = violations([constraint], {"latency": np.array([value])}, {"latency": reference})
    met = value <= factor * reference if at_most else value >= factor * reference
    assert missed.shape == (1, 1)
    assert (missed[0, 0] <= 0) == met


def test_front_holds_feasible_rows_alone_and_the_frame_says_which_they_are() -> None:
    texts = ["latency <= 0.6 * reference", "accuracy >= 0.7"]
    result = search(Ordered(space_of()), EVALUATORS, driver="nsga2", evaluations=80, progress=False, constraints=texts)
    frame = result.frame
    expected = (frame["latency"] <= 0.6 * 8 * 32) & (frame["accuracy"] >= 0.7)
    assert frame["feasible"].equals(expected.rename("feasible"))
    assert expected.any()
    assert not expected.all()
    assert set(result.front.index) <= set(frame.index[expected])
    assert result.best(maximize="accuracy")["latency"] <= 0.6 * 8 * 32
    assert result.hypervolume().iloc[int(np.flatnonzero(expected)[0]) - 1] == 0


@pytest.mark.parametrize("driver", ["surrogate", "nsga2", "moead", "optuna-tpe", "hill-climbing"])
@pytest.mark.parametrize("cost", [Cost(), ComputedCost()])
def test_one_objective_under_a_budget(driver: str, cost: Cost) -> None:
    space = space_of()
    result = search(
        Ordered(space),
        [Quality(), cost],
        driver=driver,
        evaluations=60,
        population=12,
        progress=False,
        constraints="latency <= 0.8 * reference",
        objectives=["accuracy"],
    )
    best = result.best(maximize="accuracy")
    assert best["latency"] <= 0.8 * 8 * 32
    assert result.front["accuracy"].nunique() == 1
    anchor = result.frame[(result.frame[list(space.names)] == 24).all(axis=1)]  # the median, which is feasible
    assert best["accuracy"] > anchor.iloc[0]["accuracy"]


def test_nothing_feasible_is_said() -> None:
    result = search(
        Ordered(space_of()), EVALUATORS, driver="nsga2", evaluations=20, progress=False, constraints=["accuracy >= 2"]
    )
    assert result.front.empty
    with pytest.raises(SelectionError, match="no sub-network keeps accuracy >= 2"):
        result.best(maximize="accuracy")


def test_reference_that_failed_is_said() -> None:
    broken = [Failing(raising, 32), Cost()]
    with pytest.raises(SearchError, match="largest sub-network, whose evaluation failed"):
        search(
            Ordered(space_of()),
            broken,
            driver="nsga2",
            evaluations=20,
            progress=False,
            constraints=["accuracy >= 0.9 * reference"],
        )


@pytest.mark.parametrize("names", [["energy"], []])
def test_objectives_are_among_the_evaluators(names: list[str]) -> None:
    with pytest.raises(SearchError, match="choose among the evaluators: accuracy, latency"):
        Goal.of(EVALUATORS, names)


def test_driver_knows_computed_objectives_and_violations_exactly() -> None:
    space = space_of()
    supernet = Ordered(space)
    goal = Goal.of([Quality(), ComputedCost()], constraints=["latency <= 0.5 * reference", "accuracy >= 0.5"])
    problem = goal.problem(
        space, lambda e, genome: e(supernet.subnetwork(space.configuration(genome))).value, 10, 0, 100
    )
    genomes = space.sample(np.random.default_rng(0), 50)
    known = problem.computed(genomes)
    latency = np.array([Cost()(supernet.subnetwork(space.configuration(g))).value for g in genomes])
    assert np.isnan(known[:, [0, 3]]).all()
    np.testing.assert_allclose(known[:, 1], latency)
    np.testing.assert_allclose(known[:, 2], latency / 128 - 1)


@dataclass
class Score:
    """Counts its calls."""

    function: object
    calls: int = 0

    def __call__(self, genome):
        self.calls += 1
        return float(self.function(genome))


def layered(layers: int = 4) -> SearchSpace:
    genes = [Choice(f"layers.{i}.width", (1, 2, 3), (f"layers.{i}.up",), "mlp_width") for i in range(layers)]
    genes += [Choice(f"layers.{i}.rank", (1, 2), (f"layers.{i}.q",), "lora_rank") for i in range(layers)]
    return SearchSpace.of(genes)


def test_sum_over_layers_is_tabulated_exactly_by_few_calls() -> None:
    space = layered()
    score = Score(lambda g: 5 + (np.arange(1, 5) * g[:4] ** 2 * (1 + 3 * g[4:])).sum())
    table = tabulate(score, space)
    every = np.stack(np.unravel_index(np.arange(space.size()), tuple(space.cardinalities)), axis=1)
    np.testing.assert_allclose(table(every), [score.function(g) for g in every])
    assert score.calls < 50


def test_score_that_is_no_sum_over_layers_is_left_to_be_learned() -> None:
    assert tabulate(Score(lambda g: np.sqrt(1 + g.sum())), layered()) is None
    assert tabulate(Score(lambda g: 1 / (12 - int(g.sum()))), layered()) is None  # divides by zero at the largest


def test_genes_that_share_a_layer_are_one_group() -> None:
    genes = [
        Choice("a", (1, 2), ("layers.0.q", "layers.1.q"), "lora_rank"),
        Choice("b", (1, 2), ("layers.2.up",), "mlp_width"),
        Choice("c", (1, 2), ("layers.1.up", "layers.3.up"), "mlp_width"),
    ]
    assert SearchSpace.of(genes).layer_groups == ((0, 2), (1,))


@pytest.mark.parametrize("evaluator", [ParameterCount(), ParameterCount(merged=False), Macs()])
def test_sizes_of_a_real_supernetwork_are_sums_over_layers(evaluator) -> None:
    supernet = supernetwork(tiny_llama(), EVERY_DIMENSION)

    def score(genome):
        return evaluator(supernet.subnetwork(supernet.space.configuration(genome))).value

    table = tabulate(score, supernet.space)
    genomes = supernet.space.sample(np.random.default_rng(1), 20)
    np.testing.assert_allclose(table(genomes), [score(g) for g in genomes], rtol=1e-9)
