"""How much each gene matters: what it is measured by, and what a search makes of it."""

import numpy as np
import pytest
import torch

from evaluators import ParameterCount, Perplexity
from nas_engine import search
from nas_engine.dominance import non_dominated
from nas_engine.plots import plot_sensitivity
from nas_engine.search import DriverProblem, SearchError
from nas_engine.search.surrogate import SurrogateDriver
from search_spaces import Choice, SearchSpace
from tests.ordered import space_of
from tests.supernets import CALIBRATION, EVERY_DIMENSION, FAMILIES, TOKENS, random_adapters, supernetwork
from tests.tiny import tiny_llama

TEXTS = ["the cat sat on a warm stone", "then went north in the garden"]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "bert"])
def test_sensitivity_is_the_divergence_of_what_the_network_says(family: str) -> None:
    supernet = random_adapters(supernetwork(FAMILIES[family](), EVERY_DIMENSION))
    space = supernet.space
    batch = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}
    batch["attention_mask"][1, 8:] = 0
    found = supernet.sensitivity([batch], progress=False)
    assert supernet._genome == tuple(space.largest.tolist())
    assert set(found) == set(space.names)

    @torch.inference_mode()
    def said(configuration) -> torch.Tensor:
        logits = supernet.subnetwork(configuration).model(**batch).logits
        return (logits if family == "bert" else logits[batch["attention_mask"].bool()]).log_softmax(-1)

    largest = space.configuration(space.largest)
    whole = said(largest)
    for gene in space.genes:
        expected = [
            torch.nn.functional.kl_div(said(largest | {gene.name: v}), whole, reduction="sum", log_target=True).item()
            for v in gene.values
        ]
        assert found[gene.name] == pytest.approx(np.array(expected) / len(whole), abs=1e-5)
        assert found[gene.name][-1] == 0


def test_sensitivity_needs_a_text() -> None:
    empty = [{name: torch.zeros_like(tensor) for name, tensor in CALIBRATION[0].items()}]
    with pytest.raises(ValueError, match="calibration data is empty"):
        supernetwork(tiny_llama()).sensitivity(empty)


def test_map_of_a_sensitivity_shows_the_smallest_values_by_layer() -> None:
    space = SearchSpace.of(
        [
            Choice("layers.0-1.mlp.width", (8, 16, 32), ("layers.0.up", "layers.1.up"), "mlp_width"),
            Choice("layers.1.q.rank", (8, 16), ("layers.1.q",), "lora_rank"),
        ]
    )
    axes = plot_sensitivity({"layers.0-1.mlp.width": (0.4, 0.1, 0.0), "layers.1.q.rank": (0.2, 0.0)}, space)
    shown = axes.images[0].get_array()
    assert shown.filled(np.nan) == pytest.approx(np.array([[0.4, 0.4], [np.nan, 0.2]]), nan_ok=True)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["width", "rank"]


def volume(seed: int, hinted: bool, count: int) -> float:
    """What a surrogate's front dominates when each gene costs quality in its own way and the same size."""
    space = space_of(16, 4)
    rng = np.random.default_rng(5)
    costs = [weight * np.linspace(1, 0, 4) ** 2 for weight in rng.lognormal(0, 1.5, 16)]
    hint = tuple(cost * rng.lognormal(0, 0.5) for cost in costs) if hinted else None
    most = sum(cost.max() for cost in costs)

    def computed(genomes: np.ndarray) -> np.ndarray:
        return np.column_stack([np.full(len(genomes), np.nan), genomes.mean(axis=1) / 3])

    driver = SurrogateDriver(DriverProblem(space, 2, 20, seed, computed=computed, evaluations=count, sensitivity=hint))
    points = np.empty((0, 2))
    while len(points) < count:
        genomes = driver.ask()
        lost = sum(costs[i][genomes[:, i]] for i in range(16)) / most
        told = np.column_stack([lost, computed(genomes)[:, 1]])
        driver.tell(genomes, told)
        points = np.vstack([points, told])
    front = points[:count][non_dominated(points[:count])]
    front = front[np.argsort(front[:, 0])]
    return float((np.diff(np.append(front[:, 0], 1.0)) * (1 - front[:, 1])).sum())


@pytest.mark.parametrize("seed", range(3))
def test_surrogate_with_a_rough_hint_is_ahead_of_one_with_more_evaluations(seed: int) -> None:
    assert volume(seed, hinted=True, count=25) > volume(seed, hinted=False, count=40)


@pytest.mark.parametrize("population", [2, 4, 20])
@pytest.mark.parametrize("most", [0.0, 1.0])
def test_any_population_and_a_hint_of_nothing_will_do(population: int, most: float) -> None:
    space = space_of(6, 4)
    hint = (np.linspace(most, 0, 4),) * 6
    driver = SurrogateDriver(DriverProblem(space, 2, population, sensitivity=hint))
    seen: set[bytes] = set()
    while len(seen) < 30:
        genomes = driver.ask()
        new = {genome.tobytes() for genome in genomes}
        assert len(new) == len(genomes)
        assert not new & seen
        seen |= new
        driver.tell(genomes, np.stack([genomes.sum(axis=1), -np.sqrt(genomes).sum(axis=1)], axis=1))


def test_hinted_search_begins_with_the_corners_and_goes_on_from_its_ledger(tmp_path) -> None:
    supernet = random_adapters(supernetwork(tiny_llama(), EVERY_DIMENSION))
    evaluators = [Perplexity(TEXTS), ParameterCount()]
    hint = supernet.sensitivity(CALIBRATION, progress=False)

    def run(evaluations: int, storage):
        return search(
            supernet, evaluators, "surrogate", evaluations, 8, storage=storage, progress=False, sensitivity=hint
        )

    whole, _ = run(18, None), run(11, tmp_path)
    resumed = run(18, tmp_path)
    assert resumed.frame.equals(whole.frame)
    genomes = np.array([record.genome for record in whole.records])
    space = supernet.space
    assert genomes[:3].tolist() == [space.largest.tolist(), space.smallest.tolist(), space.median.tolist()]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, r"sensitivity has \[\] for layers.0.q_k_v.rank"),
        ({"layers.0.q_k_v.rank": [0.1]}, "needs a number from 0 on for each of 2, 4"),
        ({"layers.0.q_k_v.rank": [-1.0, 0.0]}, r"has \[-1.0, 0.0\]"),
        ({"layers.0.q_k_v.rank": [float("nan"), 0.0]}, "take it from supernet.sensitivity"),
    ],
)
def test_sensitivity_of_another_space_is_refused(changed: dict, message: str) -> None:
    supernet = supernetwork(tiny_llama())
    hint = {gene.name: [0.0] * len(gene) for gene in supernet.space.genes if gene.name != "layers.0.q_k_v.rank"}
    with pytest.raises(SearchError, match=message):
        search(supernet, [ParameterCount()], "surrogate", 8, 4, progress=False, sensitivity=hint | changed)


def test_driver_that_makes_nothing_of_a_sensitivity_is_refused() -> None:
    supernet = supernetwork(tiny_llama())
    hint = {gene.name: [0.0] * len(gene) for gene in supernet.space.genes}
    with pytest.raises(SearchError, match="'nsga2', which makes nothing of a sensitivity; choose auto or"):
        search(supernet, [ParameterCount()], "nsga2", 8, 4, progress=False, sensitivity=hint)
