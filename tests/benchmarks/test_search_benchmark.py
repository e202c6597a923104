"""The problems on which search drivers are compared: figures that can be checked, and the table's format."""

import numpy as np
import pytest

from benchmarks._discrete_problems import pymoo_problem
from benchmarks._lonas96 import RANKS, WIDTHS, Lonas96, lonas_problem
from benchmarks._table import save_table, table_problem
from benchmarks.search_drivers import median_reaching, volumes
from evaluators.operators.decoder import LayerSizes, decoder_operators
from tests.ordered import space_of


def test_macs_of_the_synthetic_problem_are_those_of_llama_7b() -> None:
    lonas = Lonas96()
    genome = lonas.space.sample(np.random.default_rng(0))[0]
    layers = []
    for attention, width, mlp in genome.reshape(32, 3):
        ranks = dict.fromkeys("qkv", RANKS[attention]) | dict.fromkeys(("gate", "up"), RANKS[mlp]) | {"down": 32}
        layers.append(LayerSizes(32, 32, 128, WIDTHS[width], ranks))
    operators = decoder_operators(layers, 4096, 32000, 1, 256)
    expected = sum(op.macs for op in operators if op.kind == "weight" and op.name.startswith("layers."))
    assert lonas.macs(genome[None]) == pytest.approx(expected)


def test_accuracy_of_the_synthetic_problem_spans_what_it_says_and_is_measured_without_bias() -> None:
    lonas = Lonas96()
    space = lonas.space
    largest, smallest = lonas.accuracy(np.stack([space.largest, space.smallest]))
    assert largest == pytest.approx(0.66)
    assert smallest == pytest.approx(0.25 + 0.41 / 2)
    measured = lonas.measured(np.full(4000, largest), np.random.default_rng(0))
    assert measured.mean() == pytest.approx(largest, abs=0.001)
    assert measured.std() == pytest.approx(0.015, abs=0.001)


def test_hypervolume_grows_and_reaches_one_where_the_known_front_is_met() -> None:
    problem = lonas_problem()
    space = problem.space
    curve = volumes(problem, np.stack([space.largest, space.smallest, space.median]), 5)
    assert (np.diff(curve) >= 0).all()
    assert curve[0] == pytest.approx(0.1 * 1.1)  # the largest alone: all of the accuracy, none of the MACs
    assert curve[3] == curve[2]


def test_discretized_problem_keeps_its_front_and_constraints() -> None:
    problem = pymoo_problem("zdt1")
    optimal = np.zeros((11, len(problem.space)), dtype=np.int64)
    optimal[:, 0] = np.arange(11)
    objectives, violations = problem.true(optimal)
    np.testing.assert_allclose(objectives[:, 1], 1 - np.sqrt(objectives[:, 0]))
    assert violations.shape == (11, 0)
    assert pymoo_problem("mw3").true(optimal[:, :15])[1].shape == (11, 2)


def test_table_is_a_problem_with_the_scores_it_was_saved_with(tmp_path) -> None:
    space = space_of(3, 4)
    genomes = np.stack(np.unravel_index(np.arange(64), (4, 4, 4)), axis=1)
    scores = np.column_stack([genomes.sum(axis=1) / 9, genomes @ [1.0, 2.0, 3.0]])
    described = [{"name": "accuracy", "direction": "maximize"}, {"name": "macs", "direction": "minimize"}]
    described[1]["computed"] = True
    description = {"space": space.to_json(), "objectives": described}
    save_table(genomes[:-2], scores[:-2], description, tmp_path / "table.npz")
    with pytest.raises(ValueError, match="no row for the largest"):
        table_problem(tmp_path / "table.npz")
    kept = np.arange(64) != 5
    save_table(genomes[kept], scores[kept], description, tmp_path / "table.npz")
    problem = table_problem(tmp_path / "table.npz")
    np.testing.assert_allclose(problem.true(genomes[6:])[0], scores[6:] * [-1, 1])
    np.testing.assert_allclose(problem.true(genomes[5:6])[0], scores[1:2] * [-1, 1])  # the nearest row, one step away
    known = problem.computed(genomes[6:])
    assert np.isnan(known[:, 0]).all()
    np.testing.assert_allclose(known[:, 1], scores[6:, 1])


def test_evaluations_to_a_target_are_those_of_the_median_run() -> None:
    curves = np.array([[0.0, 1.0, 2.0], [0.0, 0.0, 2.0], [2.0, 2.0, 2.0]])
    assert median_reaching(curves, 1.0) == 2
    assert median_reaching(curves, 3.0) is None
    assert median_reaching(curves, 0.0) is None
