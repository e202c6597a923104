"""How much each gene matters: what it is measured by, and what a search makes of it."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from evaluators import ParameterCount, Perplexity, WeightBytes, cost_model
from nas_engine import search
from nas_engine.drivers.driver import DriverProblem
from nas_engine.drivers.surrogate import SurrogateDriver
from nas_engine.errors import SearchError
from nas_engine.jobs import heuristics
from nas_engine.plots import plot_sensitivity
from nas_engine.results.dominance import non_dominated
from search_spaces import Choice, SearchSpace, lora_rank
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
    found = supernet.sensitivity([batch], progress=False, method="divergence")
    assert supernet.active_genome == tuple(space.largest.tolist())
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


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_tell_the_divergence_without_a_forward_pass_a_value(family: str) -> None:
    supernet = random_adapters(supernetwork(FAMILIES[family](), EVERY_DIMENSION))
    space = supernet.space
    ids = torch.randint(2, supernet.model.config.vocab_size, (96, 12), generator=torch.Generator().manual_seed(1))
    batches = [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids.split(32)]
    exact = supernet.sensitivity(batches, progress=False, method="divergence")
    found = supernet.sensitivity(batches, progress=False)
    assert supernet.active_genome == tuple(space.largest.tolist())
    assert not any(parameter.grad is not None for parameter in supernet.model.parameters())
    assert {name: (len(values), values[-1]) for name, values in found.items()} == {
        gene.name: (len(gene), 0.0) for gene in space.genes
    }
    a, b = (np.array([v for name in space.names for v in of[name][:-1]]) for of in (exact, found))
    assert spearmanr(a, b).statistic > 0.85
    assert 0.5 < np.median(b / a) < 1.5  # in nats too
    assert found == supernet.sensitivity(batches, progress=False)


def test_gradients_of_what_changes_little_are_the_divergence() -> None:
    supernet = random_adapters(supernetwork(tiny_llama(), lora_rank((4, 2), ("q", "down"))))
    for linear in supernet.elastic_linears.values():
        linear.lora_B.data.mul_(0.2)
    ids = torch.randint(2, supernet.model.config.vocab_size, (512, 12), generator=torch.Generator().manual_seed(1))
    batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}]
    exact = supernet.sensitivity(batches, progress=False, method="divergence")
    found = supernet.sensitivity(batches, progress=False)
    for name, values in exact.items():
        assert found[name][0] == pytest.approx(values[0], rel=0.35)


def test_another_method_is_refused() -> None:
    with pytest.raises(ValueError, match="method is 'hessian'; choose one of gradients, divergence"):
        supernetwork(tiny_llama()).sensitivity(CALIBRATION, method="hessian")


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


def test_least_loss_keeps_its_bound_and_beats_the_uniform_network() -> None:
    supernet = random_adapters(supernetwork(tiny_llama(), EVERY_DIMENSION))
    sensitivity, space = supernet.sensitivity(CALIBRATION, progress=False), supernet.space
    whole = ParameterCount()(supernet.largest).value
    bound = 0.8 * whole
    chosen = heuristics.least_loss(supernet, sensitivity, ParameterCount(), bound)
    assert 0.95 * bound < ParameterCount()(supernet.subnetwork(chosen)).value <= bound
    assert heuristics.least_loss(supernet, sensitivity, ParameterCount(), whole) == supernet.largest.configuration
    least = ParameterCount()(supernet.subnetwork(space.configuration(space.smallest))).value
    with pytest.raises(ValueError, match=f"no sub-network has parameters <= 1; the least is {least:g}"):
        heuristics.least_loss(supernet, sensitivity, ParameterCount(), 1)
    with pytest.raises(ValueError, match="perplexity is no sum over the layers"):
        heuristics.least_loss(supernet, sensitivity, Perplexity(TEXTS), 5.0)


def test_front_of_budgets_is_told_with_what_it_costs_and_loses() -> None:
    supernet = random_adapters(supernetwork(tiny_llama(), EVERY_DIMENSION))
    sensitivity, costs = supernet.sensitivity(CALIBRATION, progress=False), [ParameterCount(), WeightBytes()]
    front = heuristics.least_loss_front(supernet, sensitivity, costs[0], 6)
    assert len(front) == 6
    assert front[-1].configuration == supernet.largest.configuration
    assert [f.loss for f in front] == sorted((f.loss for f in front), reverse=True)
    for forecast in front:
        subnet = supernet.subnetwork(forecast.configuration)
        assert forecast.costs == {"parameters": costs[0](subnet).value}
        assert forecast.loss == pytest.approx(
            sum(
                sensitivity[g][c.values.index(v)]
                for (g, v), c in zip(forecast.configuration.items(), supernet.space.genes, strict=True)
            )
        )
        assert forecast.gap == 0
    largest = [cost(supernet.largest).value for cost in costs]
    both = heuristics.least_loss_front(supernet, sensitivity, costs, [[0.9 * largest[0], 0.8 * largest[1]], largest])
    assert both[0].costs["parameters"] <= 0.9 * largest[0]
    assert both[0].costs[costs[1].name] <= 0.8 * largest[1]
    assert both[1].loss == 0
    with pytest.raises(ValueError, match=f"no sub-network has {costs[1].name} <= 1; the least is"):
        heuristics.least_loss_front(supernet, sensitivity, costs, [[largest[0], 1]])
    with pytest.raises(ValueError, match=f"give each a bound of parameters, {costs[1].name}"):
        heuristics.least_loss_front(supernet, sensitivity, costs, [1.0])
    with pytest.raises(ValueError, match="budgets is 0"):
        heuristics.least_loss_front(supernet, sensitivity, costs, 0)


def test_bounds_that_exclude_each_other_are_refused_with_the_least_that_is_left() -> None:
    opposed = cost_model(name="opposed")(lambda subnet: float(-subnet.parameter_count()))
    supernet = random_adapters(supernetwork(tiny_llama(), EVERY_DIMENSION))
    sensitivity = supernet.sensitivity(CALIBRATION, progress=False)
    whole = ParameterCount()(supernet.largest).value
    with pytest.raises(ValueError, match=r"no sub-network has parameters <= .* with opposed <= .*; the least with"):
        heuristics.least_loss_front(supernet, sensitivity, [ParameterCount(), opposed], [[0.8 * whole, -0.9 * whole]])


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
            supernet,
            evaluators,
            driver="surrogate",
            evaluations=evaluations,
            population=8,
            storage=storage,
            progress=False,
            sensitivity=hint,
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
        search(
            supernet,
            [ParameterCount()],
            driver="surrogate",
            evaluations=8,
            population=4,
            progress=False,
            sensitivity=hint | changed,
        )


def test_driver_that_makes_nothing_of_a_sensitivity_is_refused() -> None:
    supernet = supernetwork(tiny_llama())
    hint = {gene.name: [0.0] * len(gene) for gene in supernet.space.genes}
    with pytest.raises(SearchError, match="'nsga2', which makes nothing of a sensitivity; choose auto or"):
        search(
            supernet, [ParameterCount()], driver="nsga2", evaluations=8, population=4, progress=False, sensitivity=hint
        )
