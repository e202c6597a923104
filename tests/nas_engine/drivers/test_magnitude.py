"""Penalties as large as floats get break no driver, no hypervolume and no figure."""

import math
import sys
import warnings
from fractions import Fraction

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators import ParameterCount, cost_model
from nas_engine import SuperNetwork, compare, search
from nas_engine.drivers.registry import DRIVERS, NEEDS_SENSITIVITY
from nas_engine.magnitude import LARGEST, bounded, relative
from nas_engine.results.hypervolume import hypervolumes
from nas_engine.supernet import Subnetwork
from search_spaces import lora_rank, mlp_width
from tests.supernets import supernetwork
from tests.tiny import tiny_llama

numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(numbers, min_size=1, max_size=8))
def test_bounded_numbers_keep_their_order_and_have_squares(values: list[float]) -> None:
    given_values = np.array(values)
    result = bounded(given_values)
    order = np.argsort(given_values, kind="stable")
    assert (np.diff(result[order]) >= 0).all()
    assert np.isfinite(result**4).all()
    small = np.abs(given_values) <= 1e60
    assert (result[small] == given_values[small]).all()


@given(numbers, numbers, numbers)
def test_shares_of_a_scale_are_right_where_differences_are_no_number(value: float, zero: float, one: float) -> None:
    if abs(one / 2 - zero / 2) < 1e-290:
        return
    exact = Fraction(value) - Fraction(zero)
    exact /= Fraction(one) - Fraction(zero)
    found = relative(np.array([value]), np.array([zero]), np.array([one]))[0]
    if abs(exact) > LARGEST:
        assert abs(found) == LARGEST
        return
    rounding = (abs(value) / 2 + abs(zero) / 2 + sys.float_info.min) / abs(one / 2 - zero / 2)
    assert found == pytest.approx(float(exact), rel=1e-9, abs=max(1e-300, 1e-12 * min(rounding, LARGEST)))


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6), st.tuples(numbers, numbers))
def test_hypervolumes_are_numbers_and_grow(values: list[tuple[float, float]], point: tuple[float, float]) -> None:
    found = hypervolumes(np.array(values), np.ones(len(values), dtype=bool), np.array(point))
    assert np.isfinite(found).all()
    assert (np.diff([0.0, *found]) >= 0).all()


@pytest.fixture(scope="module")
def supernet() -> SuperNetwork:
    return supernetwork(tiny_llama(), lora_rank((4, 2), targets=("q", "v")) + mlp_width((1.0, 0.5, 0.25)))


def penalized(supernet: SuperNetwork, driver: str, penalty: float):
    """A search in which half of the space, the smallest sub-network included, scores `penalty`."""

    def cost(subnet: Subnetwork) -> float:
        return penalty if subnet.configuration["layers.0.mlp.width"] == 12 else float(subnet.parameter_count())

    evaluator = cost_model(name="cost", version=str(penalty), computed=False)(cost)
    hint = {gene.name: np.linspace(1, 0, len(gene)).tolist() for gene in supernet.space.genes}
    return search(
        supernet,
        [evaluator, ParameterCount()],
        driver=driver,
        evaluations=16,
        population=6,
        progress=False,
        sensitivity=hint if driver in NEEDS_SENSITIVITY else None,
    )


@pytest.mark.parametrize("penalty", [1e155, LARGEST])
@pytest.mark.parametrize("driver", [*DRIVERS])
def test_penalties_of_any_size_leave_a_search_whole(supernet: SuperNetwork, driver: str, penalty: float) -> None:
    result = penalized(supernet, driver, penalty)
    assert len(result) == 16
    assert (result.frame["error"] == "").all()
    assert np.isfinite(result.hypervolume()).all()
    assert result.hypervolume().iloc[-1] > 0
    assert result.hypervolume().is_monotonic_increasing
    assert all(math.isfinite(value) for value in result.reference_point().values())


def test_figures_and_tables_hold_penalties_of_any_size(supernet: SuperNetwork, tmp_path) -> None:
    results = [penalized(supernet, "random", penalty) for penalty in (1.0, LARGEST, -LARGEST)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compared = compare(results, ["a", "b", "c"])
        assert np.isfinite(compared.frame["hypervolume"]).all()
        axes = [compared.plot()]
        for result in results:
            assert result.gene_importance("cost").sum() == pytest.approx(1.0)
            axes += [result.plot("cost", "parameters"), result.plot_hypervolume(), result.plot_importance("cost")]
            chosen = result.best(minimize="parameters")
            axes.append(result.plot("parameters", "cost", chosen=chosen))
        for ax in axes:
            ax.figure.savefig(tmp_path / "figure.png")
            plt.close(ax.figure)
