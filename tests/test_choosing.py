"""The choice off a front: the fastest that keeps its accuracy on all questions, or else the most accurate."""

from types import SimpleNamespace

import pandas as pd
import pytest

from evaluators import Measurement
from nas_engine import choosing
from nas_engine.choosing import choose

# Accuracy in the search (100 questions), on the selection's 300, and the speed-up when timed again.
ROWS = {"largest": (0.50, 0.50, 1.0), "a": (0.50, 0.46, 1.5), "b": (0.47, 0.50, 1.2), "c": (0.49, 0.51, 1.3)}


class Result:
    """What `choose` asks of a search's result."""

    frame = pd.DataFrame(
        {"accuracy": accuracy, "accuracy_n": 100, "accuracy_stderr": 0.06, "latency": 1 / speedup, "on_front": True}
        for accuracy, _, speedup in ROWS.values()
    ).assign(name=list(ROWS))
    reference = frame.iloc[0]

    def candidates(self, where: str) -> pd.DataFrame:
        return self.frame.query(where)

    def subnetwork(self, row: pd.Series) -> str:
        return row["name"]


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """Whom the selection's questions were put to."""
    speedups = lambda largest, subnets, tokens: SimpleNamespace(speedups=[1.0, *(ROWS[s][2] for s in subnets)])  # noqa: E731
    monkeypatch.setattr(choosing, "speedups_over", speedups)
    return []


def chosen(asked: list[str], tolerance: float) -> choosing.Shortlisted:
    def selection(subnet: str) -> Measurement:
        asked.append(subnet)
        return Measurement(ROWS[subnet][1], 0.03, 300)

    return choose(Result(), "largest", selection, tolerance, tokens=8)  # type: ignore[arg-type]


def test_fastest_that_keeps_the_bound_on_all_questions_is_chosen_and_no_slower_one_asked(asked: list[str]) -> None:
    found = chosen(asked, tolerance=0.01)
    assert (found.row["name"], found.speedup) == ("c", 1.3)
    assert found.accuracy == pytest.approx((100 * 0.49 + 300 * 0.51) / 400)
    assert asked == ["largest", "a", "c"]


def test_where_none_keeps_the_bound_the_most_accurate_is_chosen(asked: list[str]) -> None:
    assert chosen(asked, tolerance=-0.02).row["name"] == "c"
    assert asked == ["largest", "a", "c", "b", "largest"]
