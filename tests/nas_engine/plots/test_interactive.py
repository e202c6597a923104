"""Figures that answer to the pointer, what points say, and numbers as a person reads them."""

import sys

import pandas as pd
import plotly.graph_objects as go
import pytest

from nas_engine.errors import SelectionError
from nas_engine.plots.configurations import configuration_lines, fixed_in, kind_labels, kinds_of
from nas_engine.plots.interactive_front import front_figure
from nas_engine.plots.numbers import shown
from nas_engine.results.table import Objective
from search_spaces import ModelShape, SearchSpace, lora_rank, mlp_width, sparsity, weight_bits
from tests.ordered import EVALUATORS, Quality
from tests.runs import THREE, layered_space, searched


@pytest.mark.parametrize(
    ("value", "stderr", "unit", "told"),
    [
        (0.9583, 0.0077, "", "0.958 ± 0.008"),
        (0.891, 0.0282, "", "0.891 ± 0.028"),
        (0.25, 0.099, "", "0.25 ± 0.10"),
        (134_515_008, 0.0, "", "134.5 M"),
        (53.62e6, 1.2e6, "B", "53.6 ± 1.2 MB"),
        (1536, 0.0, "", "1,536"),
        (374.265, 0.0, "ms", "374.3 ms"),
        (float("nan"), 0.1, "ms", "unknown"),
        (0.5, float("nan"), "", "0.5"),
        (-0.25332, 0.0, "ms", "-0.2533 ms"),
        (7.30556e32, 1.07e33, "", "7.3e32 ± 1.1e33"),
        (5.6e20, 0.0, "", "5.6e20"),
        (3.0, 2e18, "", "3 ± 2e18"),
    ],
)
def test_number_has_its_error_its_digits_and_its_unit(value: float, stderr: float, unit: str, told: str) -> None:
    assert shown(value, stderr, unit) == told


def test_configuration_is_told_by_depth_and_left_out_blocks_with_it() -> None:
    space = layered_space(4)
    configuration = space.configuration(space.largest) | {
        "layers.1.mlp.width": 64,
        "layers.2.mlp.keep": 0,
        "layers.3.mlp.keep": 0,
    }
    kinds = kinds_of(space)
    assert configuration_lines(configuration, kinds) == ["MLP width 256, 64, – ×2", "attention heads 8 ×4"]
    assert kinds[0].values(configuration) == [256, 64, 0, 0]
    assert [kind.unit for kind in kinds] == ["channels", ""]
    assert fixed_in(space) == ["adapter rank 32"]


def test_kinds_of_one_dimension_are_told_apart_and_genes_of_several_layers_stand_in_each() -> None:
    shape = ModelShape((64,) * 4, heads=(4,) * 4, kv_heads=(2,) * 4)
    template = (
        lora_rank((8, 4), ("q", "up"), share="each", layers_per_gene=2) + weight_bits((8, 4)) + sparsity((0, 0.5))
    )
    space = (template + mlp_width((1.0,))).bind(shape)
    labels = [kind.label for kind in kinds_of(space)]
    assert labels == ["adapter rank of q", "adapter rank of up", "weights", "weights kept"]
    first = kinds_of(space)[0]
    assert first.choices[0] is first.choices[1] is not first.choices[2]
    assert fixed_in(space) == ["MLP width 64"]
    assert list(kind_labels(space).values()) == labels


def test_space_without_a_gene_has_no_kinds() -> None:
    assert kinds_of(SearchSpace(())) == ()


def test_result_shows_the_front_with_a_menu_for_several_objectives(tmp_path) -> None:
    result = searched(tmp_path, evaluators=THREE)
    figure = result.show(chosen=result.best(maximize="accuracy", where="latency <= 0.6 * reference.latency"))
    assert isinstance(figure, go.Figure)
    (menu,) = figure.layout.updatemenus
    assert [button.label for button in menu.buttons] == [
        "accuracy over latency",
        "accuracy over parameters",
        "latency over parameters",
    ]
    visible = [trace for trace in figure.data if trace.visible]
    assert "chosen" in {trace.name for trace in visible}
    assert all(len(button.args[0]["visible"]) == len(figure.data) for button in menu.buttons)
    points = next(trace for trace in visible if trace.name == "dominated")
    assert all("MLP width" in text and "± 0.010" in text for text in points.text)


def test_what_breaks_a_constraint_by_far_is_at_the_edge_and_magnitudes_are_logarithmic() -> None:
    rows = pd.DataFrame(
        {"perplexity": [1.3, 1.5, 1.4, 7e32, 20.0], "perplexity_stderr": 0.0, "latency": [4.0, 2.0, 3.0, 1.0, 2.5],
         "latency_stderr": 0.0, "feasible": [True, True, True, False, False], "on_front": [True] * 3 + [False] * 2},
        index=range(1, 6),
    )  # fmt: skip
    x, y = Objective("latency", "minimize", "ms"), Objective("perplexity", "minimize", "")
    figure = front_figure(rows, x, y, texts=dict.fromkeys(rows.index, "as measured"))
    crosses = next(trace for trace in figure["data"] if trace["meta"]["role"] == "infeasible")
    assert crosses["name"] == "breaks a constraint (2 off scale)"
    assert crosses["y"] == pytest.approx([1.55, 1.55])
    assert "type" not in figure["layout"]["yaxis"]
    rows.loc[5, "perplexity"] = 2.1  # what misses by less is where it is, and the edge beyond it
    crosses = next(t for t in front_figure(rows, x, y)["data"] if t["meta"]["role"] == "infeasible")
    assert crosses["name"] == "breaks a constraint (1 off scale)"
    assert crosses["y"] == pytest.approx([2.3, 2.1])
    figure = front_figure(rows.assign(feasible=True), x, y)
    assert figure["layout"]["yaxis"]["type"] == "log"
    assert "type" not in figure["layout"]["xaxis"]


def test_one_objective_is_shown_over_evaluations(tmp_path) -> None:
    figure = searched(tmp_path, evaluators=[Quality()]).show()
    best = next(trace for trace in figure.data if trace.name == "best so far")
    assert list(best.y) == sorted(best.y)
    assert not figure.layout.updatemenus


def test_without_plotly_it_says_how_to_get_it(tmp_path, monkeypatch) -> None:
    result = searched(tmp_path, evaluators=EVALUATORS)
    monkeypatch.setitem(sys.modules, "plotly", None)  # as where it is not installed
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(SelectionError, match=r"pip install \"nas-engine\[report\]\""):
        result.show()
