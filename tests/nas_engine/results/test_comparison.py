"""Comparing runs: one reference point for all, and figures that do not depend on the order of the runs."""

import matplotlib as mpl
import numpy as np
import pytest
from pymoo.indicators.hv import HV

from nas_engine import compare
from nas_engine.errors import SelectionError
from nas_engine.loop import search
from tests.ordered import EVALUATORS, Ordered, space_of

mpl.use("agg")


def run(driver: str, seed: int = 0, genes: int = 12, evaluations: int = 60):
    return search(
        Ordered(space_of(genes)),
        EVALUATORS,
        driver=driver,
        evaluations=evaluations,
        population=12,
        seed=seed,
        progress=False,
    )


@pytest.fixture(scope="module")
def runs():
    return [run(driver, seed) for driver in ("nsga2", "random") for seed in range(3)]


LABELS = ["NSGA-II"] * 3 + ["random"] * 3


def test_table_has_a_row_a_run(runs) -> None:
    frame = compare(runs, LABELS).frame
    assert frame["label"].tolist() == LABELS
    assert frame["run"].tolist() == [1, 2, 3] * 2
    assert frame["evaluations"].eq(60).all()
    assert frame["front"].tolist() == [len(result.front) for result in runs]
    assert frame["coverage"].between(0, 1).all()
    volumes = frame.groupby("label")["hypervolume"].min()
    assert volumes["NSGA-II"] > frame[frame["label"] == "random"]["hypervolume"].max()


def test_hypervolumes_are_those_of_the_common_point_and_scale() -> None:
    """Spaces of different sizes have different ends; the volumes must not."""
    results = [run("nsga2", genes=12), run("nsga2", genes=8)]
    compared = compare(results, ["twelve", "eight"])
    better, worse = (np.array([compared.scale[n][i] for n in ("accuracy", "latency")]) for i in range(2))
    signs = np.array([-1, 1])
    point = np.array([compared.reference_point[n] for n in ("accuracy", "latency")])
    for result, found in zip(results, compared.frame["hypervolume"], strict=True):
        values = result.front[["accuracy", "latency"]].to_numpy()
        lengths = np.abs(worse - better)
        inside = HV(ref_point=signs * point / lengths)(signs * values / lengths)
        assert found == pytest.approx(inside)
    assert compared.reference_point["latency"] == pytest.approx(12 * 32 + 0.1 * 12 * 24)


def test_coverage_of_a_better_front_is_larger(runs) -> None:
    compared = compare(runs, LABELS)
    assert compared.coverage.loc["NSGA-II", "random"] > compared.coverage.loc["random", "NSGA-II"]
    assert np.isnan(compared.coverage.loc["random", "random"])
    same = compare([runs[0], runs[0]], ["a", "b"])
    assert same.coverage.loc["a", "b"] == 1.0


def test_order_of_runs_does_not_matter(runs) -> None:
    forward, backward = compare(runs, LABELS), compare(runs[::-1], LABELS[::-1])
    assert forward.reference_point == backward.reference_point
    assert forward.frame["hypervolume"].tolist() == pytest.approx(backward.frame["hypervolume"].tolist()[::-1])


def test_curves_are_medians_and_quartiles_over_the_runs(runs) -> None:
    compared = compare(runs, LABELS)
    last = compared.curves().iloc[-1]
    volumes = compared.frame[compared.frame["label"] == "random"]["hypervolume"]
    for name, quantile in (("first", 0.25), ("median", 0.5), ("third", 0.75)):
        assert last["random", name] == pytest.approx(volumes.quantile(quantile))
    axes = compared.plot()
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"NSGA-II", "random"}
    assert len(axes.collections) == 2  # a band for each


def test_one_run_has_a_line_and_no_band(runs) -> None:
    assert not compare(runs[:1], ["alone"]).plot().collections


def test_runs_of_other_objectives_are_refused(runs) -> None:
    other = search(Ordered(space_of()), EVALUATORS[:1], driver="nsga2", evaluations=20, population=8, progress=False)
    with pytest.raises(SelectionError, match="other has the objectives accuracy, and a has accuracy, latency"):
        compare([runs[0], other], ["a", "other"])
    with pytest.raises(SelectionError, match="2 results and 1 labels"):
        compare(runs[:2], ["a"])
    with pytest.raises(SelectionError, match="0 results"):
        compare([], [])
