"""What is counted from a configuration is what real tensors take, stage by stage."""

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from nas_engine import SuperNetwork, Teacher
from nas_engine.compression.database import LayerDatabase
from nas_engine.compression.database_building import build_database
from nas_engine.compression.sparsification import projections_of
from nas_engine.estimation.job_size import JobSize
from nas_engine.estimation.outline import period
from nas_engine.estimation.stages import Stage, count_stages
from nas_engine.estimation.tensor_bytes import TensorBytes, bytes_of, bytes_of_model
from nas_engine.supernet.refit import find_shares
from nas_engine.texts.calibration import CALIBRATION_ROWS
from nas_engine.training.answers import Distillation, predictions
from nas_engine.training.run import ORDERING_ROWS
from search_spaces import attention_heads, layer_skip, lora_rank, mlp_width, sparsity, weight_bits
from tests.supernets import HYBRIDS, MIXTURES, OF_HYBRIDS, OF_MIXTURES
from tests.tiny import tiny_tokenizer

# 25 million parameters in six layers: what a tensor takes is far above what is left out of the count.
LLAMA = LlamaConfig(
    hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=2,
    vocab_size=8192, tie_word_embeddings=True, max_position_embeddings=512)  # fmt: skip
QWEN = Qwen3Config(
    hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
    head_dim=64, vocab_size=4096, tie_word_embeddings=False, max_position_embeddings=512)  # fmt: skip
SPACE = lora_rank((16,)) + mlp_width((1.0, 0.7, 0.5, 0.3)) + attention_heads((1.0, 0.5)) + layer_skip()
WORK = JobSize(
    batch_size=4, longest=48, mean=40.0, answers=8, lora_steps=1, steps=1, calibration_tokens=768, hints=4,
    evaluations=1, evaluation_tokens=100, heal_steps=1)  # fmt: skip


def by_name(stages: list[Stage]) -> dict[str, Stage]:
    return {stage.name: stage for stage in stages}


def batch(rows: int, tokens: int, answers: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(1, 200, (rows, tokens))
    labels = ids.clone()
    labels[:, :-answers] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


@pytest.mark.slow
@pytest.mark.parametrize("config", [LLAMA, QWEN], ids=["llama", "qwen3"])
def test_count_and_measurement_agree_within_five_percent(config) -> None:
    counted = by_name(count_stages(config, SPACE, WORK))
    model = AutoModelForCausalLM.from_config(config)
    assert bytes_of_model(model) == counted["load"].bytes
    supernet = SuperNetwork.from_pretrained(model, SPACE, tiny_tokenizer())
    model.train()
    learned = batch(WORK.batch_size, WORK.longest, WORK.answers)

    def step(teacher: Teacher | None) -> int:
        gc.collect()
        with TensorBytes() as made:
            if teacher is None:
                loss = predictions(model, learned).loss
            else:
                told = teacher.predictions(learned)
                loss = Distillation().loss(predictions(model, learned), told)
            loss.backward()
        for parameter in supernet.adapter_parameters:
            parameter.grad = None
        return made.peak

    adapters = bytes_of(supernet.adapter_parameters)
    plain = bytes_of_model(model) + 2 * adapters + step(None)
    assert plain == pytest.approx(counted["plain LoRA"].bytes, rel=0.05)

    texts = [batch(16, 24, 1) | {"labels": torch.empty(0)} for _ in range(2)]
    texts = [{name: text[name] for name in ("input_ids", "attention_mask")} for text in texts]
    before = bytes_of_model(model)
    with TensorBytes() as made:
        supernet.activate_genome(supernet.space.largest)
        model.eval()
        find_shares(model, supernet.units, texts, reorder=True)
    order = counted["order and fit"]
    assert before + 2 * adapters + made.peak == pytest.approx(order.bytes, rel=0.05)

    teacher = Teacher.of(supernet)
    teacher.predictions(learned)  # its adapters in order are kept
    fitted = bytes_of([t for linear in supernet.elastic_linears.values() for t in linear.fitted_tensors])
    assert fitted == pytest.approx(made.held, rel=0.02)
    model.train()
    trained = bytes_of_model(model) + fitted + 4 * adapters + step(teacher)
    assert trained == pytest.approx(counted["super-network training"].bytes, rel=0.05)


@pytest.mark.slow
def test_bits_and_zeros_are_counted_as_they_are_made_and_trained(tmp_path) -> None:
    space = lora_rank((16,)) + mlp_width((1.0, 0.5), multiple_of=64) + weight_bits((16, 4)) + sparsity((0, 0.5))
    work = replace(WORK, group_size=64)
    config = LlamaConfig(**LLAMA.to_dict() | {"num_hidden_layers": 2})
    counted = by_name(count_stages(config, space, work))
    assert list(counted)[:4] == ["load", "order", "versions", "plain LoRA"]
    model = AutoModelForCausalLM.from_config(config)
    base = bytes_of_model(model)
    texts = [batch(16, 24, 1) for _ in range(2)]
    with TensorBytes() as made:
        database = build_database(model, texts, tmp_path / "versions", (16, 4), (0, 0.5), refit=True)
    versions = counted["versions"]
    held = sum(file.stat().st_size for file in (tmp_path / "versions").iterdir())
    assert held == pytest.approx(versions.written, rel=0.05)
    adapters = versions.held - 2 * base  # the model that was put in order is still there
    assert 2 * base + adapters + made.peak == pytest.approx(versions.bytes, rel=0.1)

    supernet = SuperNetwork.from_pretrained(
        model, space, tiny_tokenizer(), adapter_mode="quantized", database=LayerDatabase(database.folder)
    )
    assert bytes_of(supernet.adapter_parameters) == adapters
    kept = counted["plain LoRA"].held - base - 3 * adapters
    learned = batch(work.batch_size, work.longest, work.answers)
    levels = [gene.dimension in ("weight_bits", "density") for gene in supernet.space.genes]
    coarsest = np.where(levels, supernet.space.smallest, supernet.space.largest)
    for stage, genome in (("plain LoRA", supernet.space.largest), ("super-network training", coarsest)):
        supernet.activate_genome(genome)
        model.train()
        with TensorBytes() as made:
            predictions(model, learned).loss.backward()
        assert made.peak == pytest.approx(counted[stage].passing, rel=0.1), stage
    assert kept == len(database.levels) * 4 * sum(weight.numel() for _, _, weight in projections_of(model))


@pytest.mark.slow
@pytest.mark.parametrize("family", [*MIXTURES, *HYBRIDS])
def test_mixtures_and_hybrids_are_counted_as_they_run(family: str) -> None:
    """Tiny ones, whose buffers and small tensors weigh more than in any real one."""
    model = (MIXTURES | HYBRIDS)[family]()
    space = OF_MIXTURES if family in MIXTURES else OF_HYBRIDS
    work = replace(WORK, longest=24, mean=24.0, heal_steps=0)
    counted = by_name(count_stages(model.config, space, work))
    assert bytes_of_model(model) == counted["load"].bytes
    supernet = SuperNetwork.from_pretrained(model, space, tiny_tokenizer())
    learned = batch(work.batch_size, work.longest, work.answers)
    learned["input_ids"] %= model.config.vocab_size
    model.train()
    with TensorBytes() as made:
        predictions(model, learned).loss.backward()
    plain = bytes_of_model(model) + 2 * bytes_of(supernet.adapter_parameters) + made.peak
    assert plain == pytest.approx(counted["plain LoRA"].bytes, rel=0.1)


def test_kinds_of_layers_that_take_turns_are_counted_by_the_turn() -> None:
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    assert period(Qwen3Config(num_hidden_layers=6, layer_types=2 * kinds)) == 3
    assert period(Qwen3Config(num_hidden_layers=7, layer_types=[*2 * kinds, kinds[0]])) == 7
    assert period(LLAMA) == 1


@pytest.mark.slow
def test_a_batch_of_sensitivity_is_as_large_as_a_job_makes_it() -> None:
    """What is counted is the batch that `calibration_batches` makes."""
    few, many = (
        by_name(
            count_stages(LlamaConfig(**LLAMA.to_dict() | {"num_hidden_layers": 2}), SPACE, replace(WORK, hints=hints))
        )
        for hints in (CALIBRATION_ROWS, 4 * CALIBRATION_ROWS)
    )
    assert few["sensitivity"].bytes == many["sensitivity"].bytes


@pytest.mark.slow
def test_what_a_layer_adds_is_the_same_for_every_layer() -> None:
    at_once, longer = LlamaConfig(**LLAMA.to_dict() | {"num_hidden_layers": 2}), LLAMA
    whole, short = by_name(count_stages(longer, SPACE, WORK)), by_name(count_stages(at_once, SPACE, WORK))
    assert whole["plain LoRA"].operations > 2 * short["plain LoRA"].operations
    assert [stage.bytes for stage in whole.values()] > [stage.bytes for stage in short.values()]


@pytest.mark.slow
def test_without_fits_and_with_shorter_texts_less_is_needed() -> None:
    fits, plain = (by_name(count_stages(QWEN, SPACE, JobSize(steps=1, refit=refit))) for refit in (True, False))
    assert plain["super-network training"].bytes < fits["super-network training"].bytes
    assert "order" in plain
    assert "order and fit" in fits


def test_hidden_states_that_wait_count_on_the_cpu_and_elsewhere_those_of_a_batch() -> None:
    config = LlamaConfig(**LLAMA.to_dict() | {"num_hidden_layers": 1})
    work = JobSize(longest=16, calibration_tokens=10_000, evaluations=1)
    here, there = (by_name(count_stages(config, SPACE, work, device=where)) for where in ("cpu", "cuda"))
    tokens = 10_000 - ORDERING_ROWS * 16
    assert here["order and fit"].bytes - there["order and fit"].bytes == 2 * tokens * config.hidden_size * 4
    assert here["search"].bytes == there["search"].bytes
