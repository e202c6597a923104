"""Confirming: held-out values beside the search's, honest marks, and nothing measured twice after a kill."""

import dataclasses

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evaluators import Measurement
from nas_engine.errors import SelectionError
from nas_engine.loop import search
from nas_engine.results.dominance import covered, dominated_beyond_error, non_dominated
from nas_engine.results.result import SearchResult
from tests.ordered import EVALUATORS, Configured, Cost, Ordered, Quality, space_of

mpl.use("agg")


@dataclasses.dataclass(frozen=True)
class HeldOut(Quality):
    """The same quality less a bias, with noise that depends on the sub-network alone; counts and interrupts."""

    noise: float = 0.03
    calls: list = dataclasses.field(default_factory=list, compare=False)
    interrupt_at: int | None = None

    def settings(self) -> dict:
        return {"questions": f"held out {self.noise}"}

    def __call__(self, subnet: Configured) -> Measurement:
        self.calls.append(dict(subnet.configuration))
        if len(self.calls) == self.interrupt_at:
            raise KeyboardInterrupt
        rng = np.random.default_rng([int(v) for v in subnet.configuration.values()])
        value = super().__call__(subnet).value
        return Measurement(value - 0.05 + self.noise * float(rng.normal()), self.noise, 400)


@pytest.fixture(scope="module")
def result() -> SearchResult:
    return search(Ordered(space_of()), EVALUATORS, driver="nsga2", evaluations=120, population=20, progress=False)


def test_held_out_values_stand_beside_those_of_the_search(result) -> None:
    confirmed = result.confirm(HeldOut(), progress=False)
    front = result.front
    assert list(confirmed.frame.index) == list(front.index)
    assert confirmed.frame["accuracy_search"].tolist() == front["accuracy"].tolist()
    assert confirmed.frame["accuracy_search_stderr"].eq(0.01).all()
    assert confirmed.frame["accuracy_stderr"].eq(0.03).all()
    assert confirmed.frame["latency"].tolist() == front["latency"].tolist()
    assert "latency_search" not in confirmed.frame
    assert confirmed.optimism("accuracy") == pytest.approx(0.05, abs=0.02)


def test_marks_say_what_is_dominated_and_what_is_so_beyond_the_errors(result) -> None:
    confirmed = result.confirm(HeldOut(), progress=False)
    frame = confirmed.frame
    assert 0 < len(confirmed.dropped) < len(frame)
    for number, row in frame.iterrows():
        others = frame.drop(index=number)
        better = others[(others["accuracy"] >= row["accuracy"]) & (others["latency"] <= row["latency"])]
        strictly = better[(better["accuracy"] > row["accuracy"]) | (better["latency"] < row["latency"])]
        assert row["on_front"] == strictly.empty
        surely = strictly[strictly["accuracy"] - row["accuracy"] >= 0.03 * np.sqrt(2)]
        assert row["dominated_beyond_error"] == (not surely.empty)
    assert frame["dominated_beyond_error"].any()
    assert not (frame["dominated_beyond_error"] & frame["on_front"]).any()


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(float, st.tuples(st.integers(1, 15), st.integers(1, 3)), elements=st.integers(0, 5).map(float)))
def test_without_errors_dominance_beyond_them_is_plain_dominance(values: np.ndarray) -> None:
    exact = dominated_beyond_error(values, np.zeros_like(values))
    assert np.array_equal(exact, ~non_dominated(values))
    noisy = dominated_beyond_error(values, np.full_like(values, 0.4))
    assert not (noisy & ~exact).any()
    assert covered(values, values) == 1.0


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_interrupted_confirmation_goes_on_where_it_was(tmp_path, kind: str) -> None:
    storage = tmp_path if kind == "journal" else f"sqlite:///{tmp_path}/ledger.db"
    arguments = {"evaluations": 60, "population": 10, "progress": False, "storage": storage}
    stored = search(Ordered(space_of()), EVALUATORS, driver="nsga2", **arguments)
    first, second = HeldOut(interrupt_at=5), HeldOut()
    with pytest.raises(KeyboardInterrupt):
        stored.confirm(first, progress=False)
    confirmed = stored.confirm(second, progress=False)
    assert len(first.calls) - 1 + len(second.calls) == len(stored.front)
    unkept = search(Ordered(space_of()), EVALUATORS, driver="nsga2", evaluations=60, population=10, progress=False)
    pd.testing.assert_frame_equal(confirmed.frame, unkept.confirm(HeldOut(), progress=False).frame)
    other = HeldOut(noise=0.01)  # other questions are another study
    stored.confirm(other, progress=False)
    assert len(other.calls) == len(stored.front)
    again = search(
        Ordered(space_of()), EVALUATORS, driver="nsga2", **arguments
    )  # and the search's own study is as it was
    pd.testing.assert_frame_equal(again.frame, stored.frame)


class FailsOnSome(HeldOut):
    def __call__(self, subnet: Configured) -> Measurement:
        if subnet.configuration["layers.0.width"] == 32:
            raise RuntimeError("no memory left")
        return super().__call__(subnet)


def test_failed_rows_are_marked_and_are_on_no_front(result) -> None:
    frame = result.confirm(FailsOnSome(), progress=False).frame
    failed = frame[frame["error"] != ""]
    assert 0 < len(failed) < len(frame)
    assert (failed["error"] == "accuracy: RuntimeError: no memory left").all()
    assert failed["accuracy"].isna().all()
    assert not failed["on_front"].any()


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        ([], "held_out is empty"),
        (Cost("energy"), "'energy' is no objective of this search; it has accuracy, latency"),
        (Cost(unit="s"), "latency is to minimize in ms in the search, and to minimize in s here"),
    ],
)
def test_what_belongs_to_no_objective_is_refused(result, held_out, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        result.confirm(held_out, progress=False)


def test_subnetworks_and_figures_come_from_confirmed_rows(result, tmp_path) -> None:
    confirmed = result.confirm(HeldOut(), progress=False)
    row = confirmed.front.iloc[0]
    assert dict(confirmed.subnetwork(row).configuration) == {n: row[n] for n in space_of().names}
    axes = confirmed.plot("latency", "accuracy")
    assert axes.get_ylabel() == "accuracy, held out"
    labels = {text.get_text() for text in axes.get_legend().get_texts()}
    assert {"in the search", "on the front", "no longer"} <= labels
    table = pd.read_csv(confirmed.to_csv(tmp_path / "confirmed.csv"), index_col="evaluation")
    assert table["accuracy"].tolist() == pytest.approx(confirmed.frame["accuracy"].tolist())
