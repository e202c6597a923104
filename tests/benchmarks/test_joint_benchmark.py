"""How the joint benchmark compares two fronts."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.joint_space import dominated, excess, volume

PAIRS = st.lists(st.tuples(st.floats(1, 100), st.integers(1, 9)), min_size=1, max_size=8)


def front(*points: tuple[float, float]) -> pd.DataFrame:
    return pd.DataFrame(points, columns=["perplexity", "bytes"])


def test_excess_is_the_largest_part_that_is_missing_at_no_more_cost() -> None:
    ours, theirs = front((10.0, 8), (15.0, 5), (30.0, 1)), front((10.0, 9), (12.0, 7), (40.0, 2))
    assert excess(theirs, ours, "bytes") == pytest.approx(15 / 12 - 1)
    assert dominated(theirs, ours, "bytes") == pytest.approx(2 / 3)  # by (10, 8) and (30, 1)


@given(PAIRS, PAIRS)
def test_excess_below_zero_is_domination_of_every_point(first: list, second: list) -> None:
    ours, theirs = front(*first, (1e3, 0)), front(*second)
    assert (excess(theirs, ours, "bytes") >= 0) or dominated(theirs, ours, "bytes") == 1
    assert excess(theirs, theirs, "bytes") <= 0
    assert dominated(theirs, theirs.head(1), "bytes") < 1


def test_volume_counts_the_largest_cost_and_ten_times_the_best_as_one() -> None:
    assert volume(front((10.0, 0)), "bytes", 8, 10) == pytest.approx(1)
    assert volume(front((10.0, 4)), "bytes", 8, 10) == pytest.approx(0.5)
    assert volume(front((10**1.5, 4)), "bytes", 8, 10) == pytest.approx(0.25)
    assert volume(front((200.0, 0), (10.0, 9)), "bytes", 8, 10) == 0
