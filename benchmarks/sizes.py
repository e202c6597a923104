"""Seconds and peak memory of every stage at the sizes that people use, beside PEFT's LoRA and what was counted before.

Weights are random, shapes are those of real models, texts are short. Ours, PEFT and a plain load each have a process of
their own (not with ``--quick``). Memory is what is resident over an idle process, or what a GPU's allocator holds;
weights that are mapped from a file count once they are read. `memory_ratio` and `step_ratio` compare super-network
training, with fitted widths, with a step of PEFT's LoRA of the same rank on as many tokens.

Run as ``python -m benchmarks.sizes [--shape llama-3.2-1b] [--layers N] [--device cuda] [--quick]``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel, Qwen3Config

from benchmarks._common import add_device, arguments, print_json, texts, tiny_tokenizer
from benchmarks._peaks import Stages
from evaluators import Perplexity
from nas_engine import SuperNetwork, train
from nas_engine.compression import GridSettings, Quantization, quantize_model
from nas_engine.compression.rounding import round_to_nearest
from nas_engine.compression.sparsification import matrix_of
from nas_engine.estimation.job_size import JobSize
from nas_engine.estimation.outline import with_layers
from nas_engine.estimation.stages import count_stages
from nas_engine.families.descriptions import family_of
from nas_engine.texts.examples import Example, TextPair
from search_spaces import ModuleName, SpaceTemplate, attention_heads, layer_skip, lora_rank, mlp_width

_LLAMA: dict[str, Any] = {"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 4096}
SHAPES: dict[str, PreTrainedConfig] = {
    "llama-3.2-1b": LlamaConfig(
        **_LLAMA, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        tie_word_embeddings=True),
    "qwen3-4b": Qwen3Config(
        hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8,
        head_dim=128, vocab_size=151936, tie_word_embeddings=True, max_position_embeddings=4096),
    "llama-3.1-8b": LlamaConfig(
        **_LLAMA, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        tie_word_embeddings=False),
    "tiny": LlamaConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=512, tie_word_embeddings=True, max_position_embeddings=512),
}  # fmt: skip
RANK, WIDTHS, HEADS = 32, (1.0, 0.7, 0.5, 0.3, 0.15), (1.0, 0.67, 0.33)
_MEASURED = "measured.json"  # by a process of its own, beside the model
PROMPT, ANSWER = 17, 8  # tokens, of one byte each


def space() -> SpaceTemplate:
    """The quickstart's: ranks, widths, heads and blocks."""
    return (
        lora_rank((RANK,)) + mlp_width(WIDTHS, multiple_of=32) + attention_heads(HEADS) + layer_skip(skip_missing=True)
    )


def examples(count: int) -> list[TextPair]:
    """Texts of `PROMPT` and `ANSWER` tokens."""
    whole = "".join(texts(None, 8, 1)[0]).encode("ascii", "ignore").decode()
    size = PROMPT + ANSWER
    pieces = [whole[size * i % (len(whole) - size) :][:size] for i in range(count)]
    return [Example(piece[:PROMPT], piece[PROMPT:]) for piece in pieces]


def ours(folder: Path, given: argparse.Namespace, stages: Stages) -> None:
    """Every stage on a super-network, in the order of a job."""
    dtype, learned = _dtype(given.device), examples(max(given.batch, given.calibration // (PROMPT + ANSWER)))
    with stages.stage("load"):
        model = _loaded(folder, dtype, given.device)
        supernet = SuperNetwork.from_pretrained(model, space(), tiny_tokenizer())
    batches = supernet.texts(learned, count=len(learned))
    with stages.stage("order and fit"):
        supernet.order_by_importance(batches, refit=True)
    settings: dict[str, Any] = {"batch_size": given.batch, "steps": given.steps, "progress": False}
    with stages.stage("step of the largest", given.steps):
        train(supernet, learned, strategy="largest", **settings)
    with stages.stage("super-network training", given.steps):
        train(supernet, learned, strategy="uniform", **settings)
    with stages.stage("sensitivity"):
        supernet.sensitivity(batches[:1], progress=False)
    judge = Perplexity([pair.prompt + pair.completion for pair in learned[: given.batch]])
    genomes = supernet.space.sample(np.random.default_rng(0), given.evaluations)
    with stages.stage("an evaluation", given.evaluations):
        for genome in genomes:
            judge(supernet.subnetwork(supernet.space.configuration(genome)))
    middle = supernet.space.configuration((supernet.space.largest + 1) // 2)
    with stages.stage("extraction"):
        extracted = supernet.subnetwork(middle).extract()
    del extracted
    with tempfile.TemporaryDirectory() as saved:
        with stages.stage("extraction and saving"):
            supernet.largest.save_pretrained(Path(saved) / "model")
        with stages.stage("save"):
            supernet.save(Path(saved) / "supernet", include_base=False)


def packed(folder: Path, given: argparse.Namespace, stages: Stages) -> None:
    """Adapters on an INT4 base that is held as integers, rounded to nearest; widths are plain prefixes."""
    model, group = _loaded(folder, _dtype(given.device), given.device), 32 if given.shape == "tiny" else 128
    quantization = _rounded(model, group)
    template = lora_rank((RANK,)) + mlp_width(WIDTHS, multiple_of=group) + layer_skip(skip_missing=True)
    learned = examples(given.batch)
    settings: dict[str, Any] = {"batch_size": given.batch, "steps": given.steps, "progress": False}
    with stages.stage("packing"):
        supernet = SuperNetwork.from_pretrained(model, template, tiny_tokenizer(), quantization=quantization, pack=True)
    del quantization
    with stages.stage("packed step of the largest", given.steps):
        train(supernet, learned, strategy="largest", **settings)


@torch.no_grad()
def _rounded(model: PreTrainedModel, group: int) -> Quantization:
    """All projections put on grids, in place, without a look at texts."""
    family, grids = family_of(model), {}
    for index in range(model.config.num_hidden_layers):
        for name in family.projections:
            module = str(ModuleName(index, name))
            weight = matrix_of(model.get_submodule(family.path(module)))
            found = round_to_nearest(weight, GridSettings(4, group))
            weight.copy_(found.weight)
            grids[module] = found.grid
    return Quantization(grids)


def gptq(folder: Path, given: argparse.Namespace, stages: Stages) -> None:
    """GPTQ of the whole model."""
    model = _loaded(folder, _dtype(given.device), given.device)
    batches = [{"input_ids": torch.randint(0, 256, (8, 64), device=given.device)}]
    batches[0]["attention_mask"] = torch.ones_like(batches[0]["input_ids"])
    with stages.stage("GPTQ"):
        quantize_model(model, batches, group_size=32 if given.shape == "tiny" else 128)


def peft(folder: Path, given: argparse.Namespace, stages: Stages) -> None:
    """PEFT's LoRA on the same projections, steps of AdamW on the same batch."""
    with stages.stage("PEFT load"):
        targets = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
        config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets)
        model = get_peft_model(_loaded(folder, _dtype(given.device), given.device), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-4)
    ids = torch.randint(1, 256, (given.batch, PROMPT + ANSWER), device=given.device)
    labels = ids.clone()
    labels[:, :PROMPT] = -100
    model.train()
    with stages.stage("PEFT step", given.steps):
        for _ in range(given.steps):
            model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()


def plain(folder: Path, given: argparse.Namespace, stages: Stages) -> None:
    """What transformers alone takes."""
    with stages.stage("from_pretrained"):
        _loaded(folder, _dtype(given.device), given.device)


PARTS: dict[str, Callable[[Path, argparse.Namespace, Stages], None]] = {
    "plain": plain, "peft": peft, "ours": ours, "packed": packed, "gptq": gptq}  # fmt: skip


def counted(config: PreTrainedConfig, given: argparse.Namespace) -> dict[str, float]:
    """Gigabytes of the stages, as they are known before."""
    tokens = PROMPT + ANSWER
    work = JobSize(
        batch_size=given.batch, longest=tokens, mean=tokens, answers=ANSWER, lora_steps=given.steps, steps=given.steps,
        calibration_tokens=given.calibration, hints=min(32, given.calibration // tokens), evaluations=1,
        evaluation_tokens=tokens * given.batch)  # fmt: skip
    stages = count_stages(config, space(), work, _dtype(given.device), device=given.device)
    return {stage.name: round(stage.bytes / 1e9, 4) for stage in stages}


def _config(given: argparse.Namespace) -> PreTrainedConfig:
    config = SHAPES[given.shape]
    return with_layers(config, given.layers) if given.layers else config


def _dtype(device: str) -> torch.dtype:
    return torch.float32 if device == "cpu" else torch.bfloat16


def _loaded(folder: Path, dtype: torch.dtype, device: str) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return model.to(device).eval()  # type: ignore[arg-type]


def _write_random(config: PreTrainedConfig, folder: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model = model.to_empty(device="cpu")
    model.tie_weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0) if "norm" in name else parameter.normal_(0, 0.02)
    model.save_pretrained(folder)


def main() -> None:
    """Measure, and print one JSON object."""
    parser = arguments(__doc__)
    add_device(parser)
    parser.add_argument("--shape", choices=list(SHAPES), default="llama-3.2-1b")
    parser.add_argument("--layers", type=int, help="fewer than the shape has")
    parser.add_argument("--batch", type=int, default=2, help="examples of a training batch")
    parser.add_argument("--steps", type=int, default=2, help="of training that are timed")
    parser.add_argument("--calibration", type=int, default=2048, help="tokens to order and fit by")
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # where the model is, in a process of its own
    given = parser.parse_args()
    if given.quick:
        given.shape, given.calibration, given.evaluations = "tiny", 400, 2
    if given.folder is not None:
        (given.folder / _MEASURED).write_text(json.dumps(_measured(given.folder, given)), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory() as made:
        folder, config = Path(made), _config(given)
        _write_random(config, folder, _dtype(given.device))
        if given.quick:
            stages = _measured(folder, given)
        else:
            stages = {}
            for part in given.parts:
                stages |= _in_a_process(part, folder)
    print_json(_figures(given, config, stages))


def _measured(folder: Path, given: argparse.Namespace) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for part in given.parts:
        stages = Stages(given.device)
        PARTS[part](folder, given, stages)
        found |= stages.found
    return found


def _in_a_process(part: str, folder: Path) -> dict[str, dict[str, float]]:
    command = [sys.executable, "-m", "benchmarks.sizes", *sys.argv[1:], "--folder", str(folder), "--parts", part]
    subprocess.run(command, check=True)
    result: dict[str, dict[str, float]] = json.loads((folder / _MEASURED).read_text(encoding="utf-8"))
    return result


def _figures(
    given: argparse.Namespace, config: PreTrainedConfig, stages: dict[str, dict[str, float]]
) -> dict[str, Any]:
    figures: dict[str, Any] = {"stages": stages, "counted_gigabytes": counted(config, given)}
    if {"PEFT step", "super-network training"} <= set(stages):
        step, theirs = stages["super-network training"], stages["PEFT step"]
        others = ("PEFT", "GPTQ", "from_", "pack")
        most = max(stages[name]["gigabytes"] for name in stages if not name.startswith(others))
        figures["memory_ratio"] = round(step["gigabytes"] / theirs["gigabytes"], 4)
        figures["memory_ratio_of_all_stages"] = round(most / theirs["gigabytes"], 4)
        figures["step_ratio"] = round(step["seconds"] / theirs["seconds"], 4)
        if "packed step of the largest" in stages:
            figures["packed_memory_ratio"] = round(
                stages["packed step of the largest"]["gigabytes"] / theirs["gigabytes"], 4
            )
        figures["processor_step_ratio"] = round(step["processor_seconds"] / theirs["processor_seconds"], 4)
    return {given.shape: figures | {"layers": config.num_hidden_layers, "device": given.device}}


if __name__ == "__main__":
    main()
