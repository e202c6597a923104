"""The result: its front, hypervolume, selection and figures."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evaluators import Measurement
from nas_engine import plots
from nas_engine.errors import SelectionError
from nas_engine.loop import search
from nas_engine.results.dominance import non_dominated
from tests.nas_engine.test_search import Failing, raising
from tests.ordered import EVALUATORS, Configured, Cost, Ordered, Quality, space_of

mpl.use("agg")


@pytest.fixture(scope="module")
def result():
    return search(Ordered(space_of()), EVALUATORS, driver="nsga2", evaluations=60, population=10, progress=False)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


@settings(max_examples=80, deadline=None)
@given(hnp.arrays(float, st.tuples(st.integers(1, 25), st.integers(1, 4)), elements=st.integers(0, 6).map(float)))
def test_front_is_exactly_what_nothing_dominates(values: np.ndarray) -> None:
    mask = non_dominated(values)
    for i, row in enumerate(values):
        assert mask[i] == (not any(dominates(other, row) for other in values))


def test_frame_has_a_row_an_evaluation_and_columns_for_genes_and_objectives(result) -> None:
    assert list(result.frame.columns[:8]) == list(space_of().names)
    assert {"accuracy", "accuracy_stderr", "latency", "latency_stderr", "error", "on_front"} <= set(result.frame)
    assert list(result.frame.index) == list(range(1, 61))
    assert result.frame["accuracy_stderr"].eq(0.01).all()


def test_reference_is_the_largest_subnetwork(result) -> None:
    assert result.reference["accuracy"] == 1.0
    assert result.reference["latency"] == 8 * 32


def test_hypervolume_grows_and_equals_the_area_under_the_front(result) -> None:
    volume = result.hypervolume()
    assert (volume.diff().dropna() >= -1e-12).all()
    point = result.reference_point()
    smallest = result.frame.iloc[1]
    spread = {n: abs(result.reference[n] - smallest[n]) for n in ("accuracy", "latency")}
    area, best = 0.0, point["accuracy"]
    for _, row in result.front.sort_values("latency").iterrows():
        gained = max(0.0, row["accuracy"] - best)
        area += gained * (point["latency"] - row["latency"])
        best = max(best, row["accuracy"])
    assert volume.iloc[-1] == pytest.approx(area / spread["accuracy"] / spread["latency"])


def test_reference_point_does_not_move_with_more_evaluations(result) -> None:
    longer = search(Ordered(space_of()), EVALUATORS, driver="nsga2", evaluations=90, population=10, progress=False)
    assert longer.reference_point() == result.reference_point()
    pd.testing.assert_series_equal(longer.hypervolume().head(60), result.hypervolume())


def test_selection_is_the_best_row_that_meets_the_condition(result) -> None:
    best = result.best(minimize="latency", where="accuracy >= 0.9 * reference.accuracy")
    met = result.frame[result.frame["accuracy"] >= 0.9]
    assert best["latency"] == met["latency"].min()
    subnet = result.select(minimize="latency", where="accuracy >= 0.9 * reference.accuracy")
    assert dict(subnet.configuration) == {n: best[n] for n in space_of().names}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"minimize": "latency", "where": "accuracy > 2"},
            "no sub-network meets 'accuracy > 2'; there is accuracy from",
        ),
        ({"minimize": "energy"}, "one of accuracy, latency"),
        ({}, "give minimize= or maximize="),
        ({"minimize": "latency", "maximize": "accuracy"}, "give minimize= or maximize="),
        ({"minimize": "latency", "where": "accuracy >= reference.energy"}, "reference has accuracy, latency"),
        ({"minimize": "latency", "where": "accuracy >="}, "where cannot be read"),
        ({"minimize": "latency", "where": "quality > 0"}, "where cannot be read.*quality"),
    ],
)
def test_bad_selection_is_refused(result, arguments: dict, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        result.best(**arguments)


def test_failed_reference_is_said_when_it_is_asked_for() -> None:
    failing = search(
        Ordered(space_of()),
        [Failing(raising, 32), Cost()],
        driver="nsga2",
        evaluations=30,
        population=8,
        progress=False,
    )
    with pytest.raises(SelectionError, match="largest sub-network failed: accuracy: RuntimeError"):
        _ = failing.reference


def test_csv_holds_the_front(result, tmp_path) -> None:
    table = pd.read_csv(result.to_csv(tmp_path / "front.csv"), index_col="evaluation")
    assert len(table) == result.frame["on_front"].sum() > 5
    assert set(space_of().names) | {"accuracy", "latency"} <= set(table.columns)
    values = table[["accuracy", "latency"]].to_numpy() * [-1, 1]
    assert non_dominated(values).all()


def test_figures_name_axes_with_units_and_mark_reference_and_choice(result) -> None:
    axes = result.plot("latency", "accuracy", chosen=result.best(minimize="latency", where="accuracy > 0.8"))
    assert axes.get_xlabel() == "latency (ms)"
    assert axes.get_ylabel() == "accuracy"
    labels = {text.get_text() for text in axes.get_legend().get_texts()}
    assert labels == {"dominated", "Pareto front", "largest", "chosen"}
    volume = result.plot_hypervolume()
    assert volume.get_xlabel() == "evaluations"
    with pytest.raises(SelectionError, match="'energy' is no objective"):
        result.plot("energy", "accuracy")


@pytest.mark.parametrize("rise", [0.2, 1.0, 5.0])
def test_reference_point_is_written_where_no_curve_is(result, rise: float) -> None:
    evaluations = np.arange(1, 33)
    curve = pd.Series((evaluations / 32) ** rise, index=evaluations)  # early, even and late
    axes = plots.plot_hypervolume(curve, reference_point=result.reference_point(), objectives=result.objectives)
    axes.get_figure().canvas.draw()
    written = axes.get_legend().get_window_extent()
    assert not written.count_contains(axes.transData.transform(np.column_stack([curve.index, curve])))
    assert "latency" in axes.get_legend().get_title().get_text()


def test_drawn_step_line_is_the_front_of_the_two_objectives() -> None:
    three = [Quality(), Cost(), Cost("parameters")]
    result = search(Ordered(space_of()), three, driver="nsga2", evaluations=40, population=8, progress=False)
    axes = result.plot("latency", "accuracy")
    x, y = axes.lines[0].get_data()
    points = result.frame[["latency", "accuracy"]].to_numpy()
    expected = {tuple(p) for p in points[non_dominated(points * [1, -1])]}
    assert set(zip(np.asarray(x).tolist(), np.asarray(y).tolist(), strict=True)) == expected


class Perplexity(Cost):
    """Falls with size; the smallest sub-networks have some that no axis would hold beside the others."""

    def __init__(self) -> None:
        super().__init__("perplexity", "minimize", "")

    def __call__(self, subnet: Configured) -> Measurement:
        missing = 1 - Quality()(subnet).value
        return Measurement(2.0 + missing if missing < 0.25 else 10.0 ** (70 * missing))


def test_what_breaks_a_constraint_by_far_hides_neither_the_front_nor_the_hypervolume() -> None:
    result = search(Ordered(space_of()), [Perplexity(), Cost()], driver="nsga2", evaluations=60, population=10,
                    constraints=("perplexity <= 4 * reference",), progress=False)  # fmt: skip
    kept = result.frame[result.frame["feasible"]]
    lost = result.frame[result.frame["perplexity"] > 100]
    assert len(kept) > 5
    assert len(lost) > 1
    axes = result.plot("latency", "perplexity")
    low, high = axes.get_ylim()
    assert (axes.get_yscale(), low > 1, high < 5) == ("linear", True, True)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert f"breaks a constraint ({len(lost)} off scale)" in labels
    crosses = next(c for c in axes.collections if c.get_label().startswith("breaks")).get_offsets()
    assert crosses[:, 1].max() < high  # at the edge, and to be seen
    assert result.scale()["perplexity"] == (2.0, 8.0)
    assert result.reference_point()["perplexity"] == pytest.approx(8.6)
    assert result.hypervolume().is_monotonic_increasing
    assert result.hypervolume().nunique() > 3  # beside 1e70 as a scale all that is kept would count the same


def test_what_spans_magnitudes_without_a_bound_is_drawn_on_a_logarithmic_axis() -> None:
    result = search(Ordered(space_of()), [Perplexity(), Cost()], driver="nsga2", evaluations=40, population=10,
                    progress=False)  # fmt: skip
    axes = result.plot("latency", "perplexity")
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    low, high = axes.get_ylim()
    assert low < result.frame["perplexity"].min() < result.frame["perplexity"].max() < high
    assert not any("off scale" in text.get_text() for text in axes.get_legend().get_texts())
