"""Where a front is measured next: in the largest box, so that a cliff is found, and wide gaps are filled."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_engine.drivers.surrogate.boxes import beyond, box_midpoints

COSTS = np.linspace(1.0, 0.0, 65)


def measured(values: np.ndarray, rounds: int, at_once: int = 1) -> list[int]:
    """Positions in the order in which they are asked for, each told before the next ones are asked."""
    known = np.full(len(values), np.nan)
    known[[0, -1]] = values[[0, -1]]
    asked: list[int] = []
    for _ in range(rounds):
        chosen = box_midpoints(COSTS, known, at_once)
        known[chosen] = values[chosen]
        asked += chosen
    return asked


@pytest.mark.parametrize("cliff", range(2, 64, 6))
def test_a_cliff_is_found_by_halves(cliff: int) -> None:
    asked = np.array(measured((np.arange(65) >= cliff).astype(float), 5))
    above, below = asked[asked < cliff].max(initial=0), asked[asked >= cliff].min(initial=64)
    assert below - above <= 4  # of 64; evenly spread, five leave gaps of eleven


def test_where_values_fall_evenly_or_not_at_all_gaps_are_halved_evenly() -> None:
    for values in (np.linspace(0, 1, 65), np.zeros(65)):
        assert sorted(measured(values, 7)) == [8, 16, 24, 32, 40, 48, 56]
        assert sorted(measured(values, 1, 7)) == [8, 16, 24, 32, 40, 48, 56]


@given(st.sets(st.integers(1, 63)), st.integers(0, 70), st.integers(0, 2**32 - 1))
def test_what_is_asked_is_new_and_as_many_as_there_are(known: set[int], count: int, seed: int) -> None:
    values = np.full(65, np.nan)
    told = [0, 64, *known]
    values[told] = np.random.default_rng(seed).normal(size=len(told))
    chosen = box_midpoints(COSTS, values, count)
    assert len(chosen) == len(set(chosen)) == min(count, 65 - len(told))
    assert not set(chosen) & set(told)


def test_beyond_what_is_wanted_nothing_is_measured_while_anything_is_left_within() -> None:
    values = np.exp(np.linspace(0, 100, 65))  # of a perplexity that ends nowhere
    known = np.full(65, np.nan)
    asked = [0, 64]
    for _ in range(8):
        known[asked] = values[asked]
        measured = ~np.isnan(known)
        shown = np.full(65, np.nan)
        shown[measured] = beyond(known[measured], known[measured] < 1e12)  # 18 of 65
        asked += box_midpoints(COSTS, shown, 1)
    within = [place for place in asked if place < 18]
    assert len(within) >= 5  # evenly spread, three
    assert min(set(asked) - set(within)) - max(within) <= 8


def test_the_edge_of_what_is_wanted_counts_the_same_wherever_zero_is() -> None:
    values = np.full(65, np.nan)
    values[[0, 20, 30, 64]] = -0.9, -0.5, np.inf, np.inf
    for apart in (0.0, 0.7, 100.0, -100.0):
        assert box_midpoints(COSTS, values + apart, 6) == box_midpoints(COSTS, values, 6)


def test_where_values_span_magnitudes_they_count_by_how_far_they_are_from_the_best() -> None:
    values, kept = np.array([10.0, 20.0, 1e6, np.nan]), np.array([True, True, True, False])
    assert beyond(values, kept).tolist() == [0.0, 0.5, 1 - 1e-5, np.inf]
    assert beyond(-values, kept).tolist() == [-10.0, -20.0, -1e6, np.inf]
    assert beyond(values, np.array([True, True, False, False])).tolist() == [10.0, 20.0, np.inf, np.inf]
