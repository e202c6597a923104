"""What leaves a result comes back the same, and a finished run opens without its super-network."""

import json

import matplotlib as mpl
import pandas as pd
import pytest

from nas_engine.errors import LedgerError, SearchError, SelectionError
from nas_engine.loop import search
from nas_engine.results.result import SearchResult
from tests.nas_engine.test_search import Failing, raising
from tests.ordered import Cost, Ordered, Quality, space_of

mpl.use("agg")


def searched(storage=None) -> SearchResult:
    """Some of its evaluations fail."""
    evaluators = [Failing(raising), Cost()]
    return search(
        Ordered(space_of()), evaluators, driver="nsga2", evaluations=40, population=10, storage=storage, progress=False
    )


@pytest.fixture(scope="module")
def result() -> SearchResult:
    return searched()


def test_csv_of_all_rows_comes_back_the_same(result, tmp_path) -> None:
    path = result.to_csv(tmp_path / "all.csv", rows="all")
    empty = {name: [""] for name in result.frame if name != "error"}
    table = pd.read_csv(path, index_col="evaluation", keep_default_na=False, na_values=empty)
    pd.testing.assert_frame_equal(table, result.frame, check_index_type=False)


@pytest.mark.extras
@pytest.mark.parametrize("rows", ["front", "all"])
def test_parquet_comes_back_the_same(result, tmp_path, rows: str) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install nas-engine[parquet]")
    table = pd.read_parquet(result.to_parquet(tmp_path / "rows.parquet", rows=rows))
    expected = result.frame if rows == "all" else result.front.drop(columns=["error", "feasible", "on_front"])
    pd.testing.assert_frame_equal(table, expected)


def test_json_makes_the_same_result_again(result, tmp_path) -> None:
    loaded = SearchResult.load(result.to_json(tmp_path / "result.json"), result.supernet)
    pd.testing.assert_frame_equal(loaded.frame, result.frame)
    assert loaded.objectives == result.objectives
    best = {"minimize": "latency", "where": "accuracy > 0.7"}
    assert loaded.select(**best) == result.select(**best)
    again = json.loads(loaded.to_json(tmp_path / "again.json").read_text())
    assert again == json.loads((tmp_path / "result.json").read_text())


@pytest.mark.parametrize("kind", ["journal", "sqlite", "json"])
def test_finished_run_opens_without_its_supernet(tmp_path, kind: str) -> None:
    storage = f"sqlite:///{tmp_path}/ledger.db" if kind == "sqlite" else tmp_path
    result = searched(storage)
    opened = SearchResult.load(result.to_json(tmp_path / "result.json") if kind == "json" else storage)
    pd.testing.assert_frame_equal(opened.frame, result.frame)
    pd.testing.assert_frame_equal(opened.front, result.front)
    pd.testing.assert_series_equal(opened.hypervolume(), result.hypervolume())
    assert opened.plot("latency", "accuracy").get_xlabel() == "latency (ms)"
    assert opened.gene_importance("latency").sum() == pytest.approx(1)
    with pytest.raises(SelectionError, match="opened without its super-network"):
        opened.select(minimize="latency")


def test_run_of_another_supernet_is_refused(tmp_path) -> None:
    searched(tmp_path)
    with pytest.raises(LedgerError, match="another model or adapters .fingerprint ordered there, other here"):
        SearchResult.load(tmp_path, Ordered(space_of(), "other"))
    with pytest.raises(LedgerError, match="another space .only here: layers.8.width"):
        SearchResult.load(tmp_path, Ordered(space_of(9)))


@pytest.mark.parametrize("storage", ["nowhere", "sqlite:///nowhere.db"])
def test_nothing_to_load_is_said_and_nothing_made(tmp_path, monkeypatch, storage: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LedgerError, match="there is no ledger in"):
        SearchResult.load(storage)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "[]", '{"format": "other", "version": 1}', '{"format": "nas-engine result"}'])
def test_file_that_is_no_result_is_refused(tmp_path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(LedgerError, match="cannot be read as a result"):
        SearchResult.load(tmp_path / "result.json")


def test_unknown_choice_of_rows_is_refused(result, tmp_path) -> None:
    with pytest.raises(SelectionError, match="rows is 'some'; choose 'front' or 'all'"):
        result.to_csv(tmp_path / "x.csv", rows="some")


def test_hypervolume_figure_states_its_reference_point() -> None:
    result = search(
        Ordered(space_of()), [Quality(), Cost()], driver="nsga2", evaluations=30, population=10, progress=False
    )
    legend = result.plot_hypervolume().get_legend()
    assert legend is not None
    told = legend.get_title().get_text()
    point = result.reference_point()
    assert told == f"from the point\naccuracy {point['accuracy']:.4g}\nlatency {point['latency']:.4g} ms"


@pytest.mark.parametrize("kind", ["journal", "json"])
def test_bounds_and_objectives_are_those_of_the_search(tmp_path, kind: str) -> None:
    goal = {"objectives": ["accuracy"], "constraints": ["latency <= 0.6 * reference"]}
    arguments = {"evaluations": 40, "population": 10, "storage": tmp_path, "progress": False}
    result = search(Ordered(space_of()), [Failing(raising), Cost()], driver="nsga2", **arguments, **goal)
    path = result.to_json(tmp_path / "result.json")
    opened = SearchResult.load(path) if kind == "json" else SearchResult.load(tmp_path, **goal)
    assert (opened.objectives, opened.constraints) == (result.objectives, result.constraints)
    pd.testing.assert_frame_equal(opened.frame, result.frame)
    assert 0 < opened.frame["feasible"].sum() < len(opened)
    with pytest.raises(SearchError, match="'memory'; choose among the evaluators: accuracy, latency"):
        SearchResult.load(path, objectives=["memory"])
