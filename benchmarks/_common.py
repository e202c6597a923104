"""What several benchmarks need: models, texts that need no download, and the last line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import reasoning_gym
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from nas_engine.data.tasks import task_splits
from nas_engine.models import load_model


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the flags that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a tiny random Llama instead of SmolLM2-135M")
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    """The flag of the benchmarks that also run on a GPU."""
    parser.add_argument("--device", default="cpu", help="where the model computes, such as cuda")


def load(quick: bool, **config: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """SmolLM2-135M, or with `quick` a tiny random Llama (seeded; `config` overrides its configuration)."""
    if not quick:
        return load_model("smollm2")
    tokenizer = tiny_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes | {"vocab_size": len(tokenizer), "pad_token_id": 0} | config))
    return model.eval(), tokenizer


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer that knows single bytes, and one pair of them."""
    alphabet = ["<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th"]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<pad>")


def texts(data: Path | None, calibration: int, evaluation: int) -> tuple[list[str], list[str]]:
    """Short English texts, to calibrate on and to evaluate on.

    Args:
        data: a JSONL file of questions with their answers, or None for grade-school problems with their solutions as
            reasoning-gym makes them (``gsm_symbolic``).
        calibration: how many to calibrate on.
        evaluation: how many others to evaluate on.
    """
    if data is None:
        made = reasoning_gym.create_dataset("gsm_symbolic", size=calibration + evaluation, seed=0)
        lines = [f"{entry['question']}\n{entry['metadata']['answer_cot']}" for entry in made]
    else:
        splits = task_splits(data, calibration, evaluation, 2, seed=0)
        lines = [q.prompt + q.completion for q in (*splits.train[:calibration], *splits.validation)]
    return lines[:calibration], lines[calibration:]


def batch_of(lines: list[str], tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` of texts, padded right, shape (texts, tokens)."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    encoded = tokenizer(lines, return_tensors="pt", padding=True, padding_side="right")
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def print_json(figures: dict[str, Any]) -> None:
    """The last line of a benchmark."""
    print(json.dumps(figures))
