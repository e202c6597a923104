"""Hugging Face's Trainer on a super-network: sub-networks take turns, adapters learn, a resumed run is the same."""

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from nas_engine.supernet import SuperNetwork
from nas_engine.training import SubnetworkSampler
from nas_engine.training.strategies import genomes_of_batch
from tests.supernets import CALIBRATION, EVERY_DIMENSION, FAMILIES, random_adapters, supernetwork
from tests.tiny import tiny_llama


class Recorder(TrainerCallback):
    """What is active when each micro-batch is computed."""

    def __init__(self, supernet: SuperNetwork) -> None:
        self.seen: list[tuple[int, ...]] = []
        supernet.model.register_forward_pre_hook(lambda *_: self.seen.append(supernet.active_genome))


def sequences(labels: bool) -> list[dict[str, torch.Tensor]]:
    rows = [torch.arange(2 + i % 3, 14 + i % 3) for i in range(48)]
    return [{"input_ids": row, "labels": torch.tensor(i % 3) if labels else row} for i, row in enumerate(rows)]


def trainer(supernet: SuperNetwork, folder, callbacks=(), labels: bool = False, **settings) -> Trainer:
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=4,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **{"learning_rate": 1e-2, "save_strategy": "no", "max_steps": 6, "logging_steps": 1} | settings,
    )
    sampler = SubnetworkSampler(supernet, seed=3)
    return Trainer(supernet.model, arguments, train_dataset=sequences(labels), callbacks=[sampler, *callbacks])


def turn(supernet: SuperNetwork, micro_batch: int) -> tuple[int, ...]:
    """What is drawn; the largest in place of a sub-network that has nothing left to train."""
    genome = genomes_of_batch(supernet.space, "uniform", 3, micro_batch)[0]
    kept = [genome[i] for i, gene in enumerate(supernet.space.genes) if gene.dimension == "layer_skip"]
    return tuple((genome if any(kept) else supernet.space.largest).tolist())


def ordered(family: str = "llama", space=EVERY_DIMENSION) -> SuperNetwork:
    supernet = supernetwork(FAMILIES[family](), space)
    supernet.order_by_importance(CALIBRATION)
    return supernet


def test_every_micro_batch_has_its_own_subnetwork_and_the_largest_is_left_active(tmp_path) -> None:
    supernet = ordered()
    recorder = Recorder(supernet)
    trainer(supernet, tmp_path, [recorder], gradient_accumulation_steps=2).train()
    assert recorder.seen == [turn(supernet, i) for i in range(12)]
    assert supernet.active_genome == tuple(supernet.space.largest.tolist())


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_adapters_learn_and_the_base_stays_frozen(tmp_path, family: str) -> None:
    supernet = ordered(family)
    trained = {id(p) for p in supernet.adapter_parameters}
    frozen = {n: p.detach().clone() for n, p in supernet.model.named_parameters() if id(p) not in trained}
    job = trainer(supernet, tmp_path, labels=family == "bert", max_steps=60)
    job.train()
    losses = [entry["loss"] for entry in job.state.log_history if "loss" in entry]
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])
    assert all(torch.equal(p, frozen[n]) for n, p in supernet.model.named_parameters() if n in frozen)


def test_resumed_run_ends_as_the_uninterrupted_one(tmp_path) -> None:
    whole = ordered()
    trainer(whole, tmp_path / "whole", save_strategy="steps", save_steps=3).train()
    resumed = ordered()
    trainer(resumed, tmp_path / "resumed").train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for name, tensor in whole.state().items():
        torch.testing.assert_close(resumed.state()[name], tensor)


def test_unordered_supernetwork_is_warned_about(tmp_path) -> None:
    with pytest.warns(UserWarning, match="no order of importance"):
        trainer(supernetwork(tiny_llama(), EVERY_DIMENSION), tmp_path, max_steps=1).train()


def test_classifier_trains_saves_and_leaves_with_the_subnetwork(tmp_path) -> None:
    supernet = random_adapters(ordered("bert"))
    with torch.no_grad():
        supernet.model.classifier.weight.add_(1)
    supernet.save(tmp_path)
    loaded = SuperNetwork.load(tmp_path)
    assert torch.equal(loaded.model.classifier.weight, supernet.model.classifier.weight)
    assert loaded.fingerprint() == supernet.fingerprint()
    assert torch.equal(supernet.largest.extract().classifier.weight, supernet.model.classifier.weight)


def test_trainer_that_accelerate_lets_shard_is_refused_before_it_begins(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"leave fsdp out, or use nas_engine\.train"):
        trainer(ordered(), tmp_path)
