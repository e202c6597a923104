"""On a GPU: what is computed there is what the CPU computes, wherever things were made before. Skipped without one."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from evaluators import ExactMatch, Latency, MultipleChoiceAccuracy, Perplexity, Problem, Racing, cost_model
from nas_engine import Example, WorkerPool, search, train
from nas_engine.compression import load_quantized, quantize_model, sparsify
from nas_engine.compression.calibration import calibrated_layers
from nas_engine.compression.database import LayerDatabase
from nas_engine.compression.database_building import build_database
from nas_engine.data.made import chain_sum
from nas_engine.jobs.recipes import SearchPlan, ordered, shears, sqft
from nas_engine.supernet import SuperNetwork
from nas_engine.training import SubnetworkSampler
from nas_engine.training.settings import TrainingSettings
from search_spaces import lora_rank, mlp_width, sparsity, weight_bits
from tests.compressed import qa_sparse_peft, sparse_peft, zeros
from tests.compressed import shears as shears_supernet
from tests.compressed import sqft as sqft_supernet
from tests.supernets import CALIBRATION, EVERY_DIMENSION, FAMILIES, TOKENS, random_adapters, supernetwork
from tests.tiny import tiny_llama, tiny_tokenizer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

GPU = torch.device("cuda")
QUESTIONS = chain_sum(60, seed=0)
EXAMPLES = [Example(f"the {word} ", "is it") for word in ("cat", "dog", "tree", "house")]


@torch.inference_mode()
def logits(model: torch.nn.Module) -> torch.Tensor:
    """What `model` computes where it is, on the CPU."""
    return model.eval()(TOKENS.to(model.device)).logits.cpu()


def some(supernet: SuperNetwork, count: int = 4):
    """The largest, the smallest and a few others."""
    genomes = [supernet.space.largest, supernet.space.smallest, *supernet.space.sample(np.random.default_rng(0), count)]
    return [supernet.subnetwork(supernet.space.configuration(genome)) for genome in genomes]


def require_same_on_gpu(supernet: SuperNetwork) -> None:
    """Move `supernet` to the GPU; every sub-network, active or extracted, computes there what it did before."""
    before = [logits(subnet.model) for subnet in some(supernet)]
    supernet.model.to(GPU)
    for subnet, expected in zip(some(supernet), before, strict=True):
        assert (logits(subnet.model) - expected).abs().max() < 1e-3
        extracted = subnet.extract()
        assert {p.device.type for p in extracted.parameters()} == {"cuda"}
        assert (logits(extracted) - expected).abs().max() < 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_subnetworks_of_every_family_compute_there_what_they_compute_here(family: str) -> None:
    supernet = random_adapters(supernetwork(FAMILIES[family](), EVERY_DIMENSION))
    supernet.order_by_importance(CALIBRATION)
    require_same_on_gpu(supernet)


@pytest.mark.parametrize("make", [shears_supernet, sparse_peft, sqft_supernet, qa_sparse_peft])
def test_sparse_and_quantized_supernetworks_move_with_their_grids(make) -> None:
    require_same_on_gpu(make())


def test_quantized_supernetwork_is_made_loaded_and_saved_there(tmp_path) -> None:
    """Projections without an adapter keep their grids beside the weights."""
    here = sqft_supernet(lora_rank((4, 2), ("q",), (("q",),)))
    expected = logits(here.largest.model)
    here.save(tmp_path / "supernet", include_base=True)
    there = SuperNetwork.load(tmp_path / "supernet", device="cuda")
    assert there.model.device.type == "cuda"
    assert (logits(there.largest.model) - expected).abs().max() < 1e-3
    there.save_base(tmp_path / "base")
    assert len(load_quantized(tmp_path / "base")[2].grids) == 21


def test_supernetwork_made_there_is_ordered_and_fitted_there() -> None:
    made = []
    for device in ("cpu", "cuda"):
        supernet = random_adapters(supernetwork(tiny_llama().to(device), EVERY_DIMENSION))
        supernet.order_by_importance(CALIBRATION, refit=True)
        assert supernet.block_importance(CALIBRATION)
        made.append([logits(subnet.model) for subnet in some(supernet)])
    for here, there in zip(*made, strict=True):
        assert (here - there).abs().max() < 1e-2


def test_what_passes_between_layers_waits_here_and_says_the_same_there() -> None:
    model = tiny_llama()
    heard: dict[str, list[torch.Tensor]] = {}
    for device in ("cpu", "cuda"):
        model.to(device)
        for layer in calibrated_layers(model, CALIBRATION):
            assert {states.device.type for states in layer.hidden} == {"cpu"}
            layer.pass_on({"down": lambda _, inputs, of=device: heard.setdefault(of, []).append(inputs)})
            assert {states.device.type for states in layer.given} == {"cpu"}
    for here, there in zip(heard["cpu"], heard["cuda"], strict=True):
        assert there.device.type == "cuda"
        assert (here - there.cpu()).abs().max() < 1e-3


def test_packed_base_moves_and_learns_there() -> None:
    supernet = sqft_supernet()
    supernet.pack_base()
    require_same_on_gpu(supernet)
    report = train(supernet, EXAMPLES, steps=8, batch_size=4, learning_rate=1e-2, progress=False)
    assert report.losses[-1] < report.losses[0]


def test_training_there_learns_and_its_state_loads_here(tmp_path) -> None:
    def run(steps_seen: list[int]):
        supernet = supernetwork(tiny_llama().to(GPU), EVERY_DIMENSION)
        report = train(
            supernet, EXAMPLES, steps=30, batch_size=4, learning_rate=1e-2, checkpoint=tmp_path, progress=False
        )
        steps_seen.append(report.resumed_at)
        return supernet, report

    seen: list[int] = []
    supernet, report = run(seen)
    assert np.mean(report.losses[-5:]) < 0.9 * np.mean(report.losses[:5])
    again, _ = run(seen)
    assert seen == [0, 30]
    assert torch.equal(logits(again.largest.model), logits(supernet.largest.model))
    here = supernetwork(tiny_llama(), EVERY_DIMENSION)
    here.load_state(supernet.state())
    for ours, theirs in zip(some(here), some(supernet), strict=True):
        assert (logits(ours.model) - logits(theirs.model)).abs().max() < 1e-3
    supernet.save(tmp_path / "saved", include_base=True)
    loaded = SuperNetwork.load(tmp_path / "saved")
    assert (logits(loaded.largest.model) - logits(supernet.largest.model)).abs().max() < 1e-3


def test_trainer_moves_a_quantized_supernetwork_itself(tmp_path) -> None:
    supernet = qa_sparse_peft()
    arguments = TrainingArguments(
        str(tmp_path), max_steps=4, per_device_train_batch_size=4, report_to=[], disable_tqdm=True, save_strategy="no"
    )
    rows = [{"input_ids": torch.arange(2, 14), "labels": torch.arange(2, 14)} for _ in range(16)]
    before = zeros(supernet.model)
    sampler = SubnetworkSampler(supernet, seed=0)
    Trainer(supernet.model, arguments, train_dataset=rows, callbacks=[sampler]).train()
    assert supernet.model.device.type == "cuda"
    merged = supernet.largest.extract(merge=True)
    assert (logits(merged) - logits(supernet.largest.model)).abs().max() < 1e-3
    assert all(after >= before[name] for name, after in zeros(merged).items())


def test_evaluators_give_there_what_they_give_here() -> None:
    def scores(device: str) -> list[list[float]]:
        supernet = random_adapters(supernetwork(tiny_llama().to(device), EVERY_DIMENSION))
        evaluators = [
            MultipleChoiceAccuracy(QUESTIONS),
            Perplexity(["the cat sat on a warm stone", "then went north in the garden"]),
            ExactMatch([Problem("the cat", "#### 1"), Problem("on a", "#### 2")], max_new_tokens=8),
        ]
        return [[evaluator(subnet).value for evaluator in evaluators] for subnet in some(supernet)]

    for here, there in zip(scores("cpu"), scores("cuda"), strict=True):
        assert there == pytest.approx(here, rel=1e-3, abs=2 / 60)  # two questions of sixty may be that close


@pytest.mark.parametrize("executor", [None, WorkerPool(2)])
def test_search_runs_there(executor, tmp_path) -> None:
    @cost_model()
    def size(subnet) -> float:
        return float(subnet.parameter_count())

    supernet = random_adapters(supernetwork(tiny_llama().to(GPU), EVERY_DIMENSION))
    evaluators = [MultipleChoiceAccuracy(QUESTIONS, racing=Racing()), Perplexity(["the cat sat on", "a warm"]), size]
    result = search(
        supernet,
        evaluators,
        driver="surrogate",
        evaluations=16,
        population=8,
        storage=tmp_path,
        executor=executor,
        progress=False,
    )
    assert not result.frame["error"].any()
    for _, row in result.front.iterrows():
        assert evaluators[1](result.subnetwork(row)).value == pytest.approx(row["perplexity"], rel=1e-4)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_latency_is_timed_there(phase, cuda_graphs: bool) -> None:
    supernet = random_adapters(supernetwork(tiny_llama(), EVERY_DIMENSION))  # on the CPU: extracted, then moved
    latency = Latency(
        tokens=16, phase=phase, device="cuda", cuda_graphs=cuda_graphs, repeats=4, reference=supernet.largest
    )
    assert 0 < latency(supernet.largest).value < 10
    assert supernet.model.device.type == "cpu"


@pytest.mark.parametrize("refit", [False, True])
def test_sparse_there_as_here(refit: bool) -> None:
    here, there = tiny_llama(), tiny_llama().to(GPU)
    reports = [sparsify(model, CALIBRATION, 0.5, refit=refit) for model in (here, there)]
    assert (reports[0]["zeros"] == reports[1]["zeros"]).all()
    same = [
        ((a == 0) == (b.cpu() == 0)).float().mean()
        for a, b in zip(here.parameters(), there.parameters(), strict=True)
        if a.ndim == 2
    ]
    assert min(same) > 0.99
    first = [model.get_submodule("model.layers.0.mlp.up_proj").weight.cpu() for model in (here, there)]
    assert torch.isclose(*first, atol=1e-2).float().mean() > 0.99


@pytest.mark.parametrize("act_order", [False, True])
def test_quantized_there_merges_to_the_integers_that_training_used(tmp_path, act_order: bool) -> None:
    model = tiny_llama().to(GPU)
    sparsify(model, CALIBRATION, 0.5)
    quantization = quantize_model(model, CALIBRATION, 4, 8, symmetric=False, act_order=act_order)
    supernet = SuperNetwork.from_pretrained(
        model, lora_rank((4, 2)), tiny_tokenizer(), adapter_mode="quantized", quantization=quantization
    )
    subnet = random_adapters(supernet).largest
    expected = logits(subnet.model)
    used = {name: linear.combined_weight().cpu() for name, linear in supernet.elastic_linears.items()}
    subnet.save_pretrained(tmp_path)
    loaded, _, found = load_quantized(tmp_path)
    for name, weight in used.items():
        saved = loaded.get_submodule(supernet.family.path(name)).weight
        assert torch.equal(saved == 0, weight == 0)
        torch.testing.assert_close(saved, weight)
    assert len(found.grids) == 21
    assert (logits(loaded) - expected).abs().max() < 1e-3


def test_joint_space_is_built_searched_and_saved_there(tmp_path) -> None:
    model = ordered(tiny_llama().to(GPU), tiny_tokenizer(), CALIBRATION)
    assert model.device.type == "cuda"
    build_database(model, CALIBRATION, tmp_path, (16, 8, 4), (0.0, 0.5), group_size=8, refit=True)
    space = lora_rank((4, 2)) + mlp_width((1.0, 0.5), multiple_of=8) + weight_bits((16, 8, 4)) + sparsity((0.0, 0.5))
    database = LayerDatabase(tmp_path)
    supernet = random_adapters(
        SuperNetwork.from_pretrained(model, space, tiny_tokenizer(), adapter_mode="quantized", database=database)
    )
    train(supernet, EXAMPLES, steps=4, batch_size=4, progress=False)
    for number, subnet in enumerate(some(supernet)):
        expected = logits(subnet.model)
        assert {linear.weight.device.type for linear in supernet.elastic_linears.values()} == {"cuda"}
        folder = subnet.save_pretrained(tmp_path / f"saved{number}")
        loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
        assert (logits(loaded) - expected).abs().max() < 1e-3
    require_back_on_cpu(supernet)


def require_back_on_cpu(supernet: SuperNetwork) -> None:
    """A search on the GPU, then the sub-networks on the CPU."""
    there = [logits(subnet.model) for subnet in some(supernet)]
    supernet.model.to("cpu")
    for subnet, expected in zip(some(supernet), there, strict=True):
        assert (logits(subnet.model) - expected).abs().max() < 1e-3


@pytest.mark.parametrize("recipe", [shears, sqft])
def test_recipes_run_there(recipe, tmp_path) -> None:
    grid = {"group_size": 16} if recipe is sqft else {"merge": True}
    made = recipe(
        tiny_llama(),
        QUESTIONS[:40],
        MultipleChoiceAccuracy(QUESTIONS[40:]),
        tokenizer=tiny_tokenizer(),
        space=lora_rank((4, 3, 2)),
        training=TrainingSettings(steps=6, batch_size=4, learning_rate=1e-2),
        searching=SearchPlan(("nsga2",), 8, 4),
        device="cuda",
        calibration=16,
        progress=False,
        **grid,
    )
    made.save(tmp_path)
    loaded = load_quantized(tmp_path)[0] if recipe is sqft else AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (logits(loaded) - logits(made.chosen.model)).abs().max() < 1e-3
