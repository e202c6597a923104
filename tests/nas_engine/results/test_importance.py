"""Gene importance: known shares are found again, also in the crowded rows of an evolutionary search."""

import matplotlib as mpl
import numpy as np
import pytest
from optuna.importance import PedAnovaImportanceEvaluator
from scipy.stats import spearmanr

from nas_engine.errors import SelectionError
from nas_engine.loop import search
from nas_engine.plots import layer_table
from nas_engine.results.importance import main_effects
from search_spaces import Choice, SearchSpace
from tests.ordered import EVALUATORS, Ordered, space_of

mpl.use("agg")


def searched(driver: str, genes: int = 24):
    return search(
        Ordered(space_of(genes, 5)), EVALUATORS, driver=driver, evaluations=200, population=20, seed=1, progress=False
    )


@pytest.mark.parametrize("driver", ["random", "nsga2"])
def test_shares_are_those_of_the_known_problem(driver: str) -> None:
    shares = searched(driver).gene_importance("accuracy")
    weights = 1 / np.arange(1, 25) ** 2  # layer i counts 1 / i, and a share is a variance
    found = shares.reindex([f"layers.{i}.width" for i in range(24)])
    assert found.to_numpy() == pytest.approx(weights / weights.sum(), abs=0.02)
    assert spearmanr(found, weights).statistic > 0.95
    assert shares.sum() == pytest.approx(1)
    assert shares.is_monotonic_decreasing
    assert shares.index[0] == "layers.0.width"


def test_equal_genes_have_equal_shares() -> None:
    shares = searched("nsga2").gene_importance("latency")
    assert shares.to_numpy() == pytest.approx(1 / 24, rel=1e-3)


def test_gene_whose_middle_value_is_best_counts() -> None:
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 5, (200, 6))
    values = -((indices[:, 2] - 2.0) ** 2) + 0.01 * rng.normal(size=200)
    assert main_effects(indices, values, np.full(6, 5))[2] > 0.99


def test_evaluators_of_optuna_can_be_taken_instead() -> None:
    shares = searched("random").gene_importance("accuracy", PedAnovaImportanceEvaluator())
    assert shares.index[0] == "layers.0.width"
    assert set(shares.index) == set(space_of(24).names)


def test_too_few_rows_and_unknown_objectives_are_refused() -> None:
    result = search(Ordered(space_of()), EVALUATORS, driver="nsga2", evaluations=8, population=8, progress=False)
    with pytest.raises(SelectionError, match="10 measured rows or more; there are 8"):
        result.gene_importance("accuracy")
    with pytest.raises(SelectionError, match="'energy' is no objective; choose from accuracy, latency"):
        result.gene_importance("energy")


def test_map_has_a_row_a_kind_and_a_column_a_layer() -> None:
    space = SearchSpace.of(
        [
            Choice("layers.0-1.mlp.width", (8, 16), ("layers.0.up", "layers.1.up"), "mlp_width"),
            Choice("layers.0.rank", (8, 16), ("layers.0.q",), "lora_rank"),
            Choice("layers.2.mlp.width", (8, 16), ("layers.2.up",), "mlp_width"),
        ]
    )
    result = search(Ordered(space), EVALUATORS, driver="random", evaluations=8, population=8, seed=0, progress=False)
    shares = result.frame[list(space.names)].iloc[0] / 16  # any series by gene
    table = layer_table(shares, space)
    assert list(table.index) == ["mlp.width", "rank"]
    assert list(table.columns) == [0, 1, 2]
    assert table.loc["mlp.width"].notna().all()
    assert table.loc["rank"].notna().tolist() == [True, False, False]
    axes = searched("random").plot_importance("accuracy")
    assert axes.get_xlabel() == "layer"
    assert axes.images[0].get_array().shape == (1, 24)
