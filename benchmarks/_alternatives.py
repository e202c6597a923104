"""What makes compression methods comparable: the same task, the same multiply-accumulates, the same measured speed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks._common import load
from benchmarks.training_quality import questions
from evaluators import (
    Direction,
    EvaluatorDefaults,
    Measurement,
    ModelEvaluator,
    MultipleChoiceAccuracy,
    Perplexity,
    Question,
    Subnetwork,
    compare_latency,
)
from evaluators.whole_file import replacing
from nas_engine import Example, SuperNetwork
from nas_engine.data.tasks import task_splits
from nas_engine.errors import TaskError
from nas_engine.supernet.refit import solving
from nas_engine.texts.batches import Batch
from nas_engine.texts.calibration import calibration_batches
from nas_engine.texts.examples import tokenize
from nas_engine.training import TextPair
from nas_engine.training.strategies import genomes_of_batch
from search_spaces import attention_heads, layer_skip, mlp_width

BATCH, MAX_TOKENS = 16, 1024
THREADS, PREFILL = 2, 128  # of the timing
_FRACTIONS = (0.8, 0.6, 0.4, 0.2, 0.1)
_TOKENS_A_CHANNEL = 8  # of calibration
_OPENING = "Question:"

# Query heads and MLP channels of every layer that is left, 0 for a block that is not: all that a speed depends on.
Blocks = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Task:
    """What is learned and how it is judged.

    Args:
        train: prompts with completions.
        judge: scores by held-out data.
    """

    train: Sequence[TextPair]
    judge: ModelEvaluator


def load_task(name: str, data: Path, test: int) -> Task:
    """``perplexity`` and ``arc`` from the questions in `data`, or a task of `nas_engine.data`.

    Raises:
        TaskError: there is no such task, or no data.
    """
    if name in ("arc", "perplexity"):
        if not data.is_dir():
            raise TaskError(f"there is no folder {data}; give --data.")
        learn, held_out = questions(data, test)
    else:
        made = task_splits(name, 4000, 1, test, seed=0)
        learn, held_out = list(made.train), list(made.test)
    if name == "perplexity":
        texts = [question.prompt + question.completion for question in held_out]
        return Task([_as_text(question) for question in learn], Perplexity(texts))
    return Task(learn, MultipleChoiceAccuracy(held_out))


def _as_text(question: Question) -> Example:
    return Example(_OPENING, (question.prompt + question.completion).removeprefix(_OPENING))


@dataclass(frozen=True)
class Load:
    """Tokens that a network reads, and those at which its output head runs."""

    tokens: float
    labels: float

    @classmethod
    def of(cls, pairs: Sequence[TextPair], tokenizer: PreTrainedTokenizerBase) -> Load:
        """All of `pairs`, without padding."""
        examples = tokenize(pairs, tokenizer, MAX_TOKENS)
        tokens = sum(len(example.tokens) for example in examples)
        return cls(tokens, sum(example.scored for example in examples))

    def times(self, factor: float) -> Load:
        """`factor` times as much."""
        return Load(self.tokens * factor, self.labels * factor)


def forward_macs(subnet: Subnetwork, load: Load) -> float:
    """Multiply-accumulates of linear layers, adapters and the output head."""
    layers, adapters, head = _weights(subnet)
    return load.tokens * (layers + adapters) + load.labels * head


def training_macs(subnet: Subnetwork, load: Load) -> float:
    """Forward, backward through the frozen weights and the adapters, and the adapters' own gradients."""
    return 2 * forward_macs(subnet, load) + load.tokens * _weights(subnet)[1]


def sampled_macs(supernet: SuperNetwork, load: Load, seed: int, draws: int = 64) -> float:
    """`training_macs` of a sub-network drawn uniformly at random, the mean over `draws`."""
    space = supernet.space
    genomes = [genomes_of_batch(space, "uniform", seed, batch)[0] for batch in range(draws)]
    return float(np.mean([training_macs(supernet.subnetwork(space.configuration(g)), load) for g in genomes]))


def calibration_macs(subnet: Subnetwork, batches: Sequence[Batch], fitted: bool = False) -> float:
    """A forward pass without the head; with `fitted` also products of channels with channels, and their solves, about
    one cube of the channels.
    """
    tokens = float(sum(int(batch["attention_mask"].sum()) for batch in batches))
    widths = [width for _, width in blocks_of(subnet)] if fitted else []
    return forward_macs(subnet, Load(tokens, 0)) + sum(solving(width, tokens) / 2 for width in widths)


def calibration(train: Sequence[TextPair], tokenizer: PreTrainedTokenizerBase, channels: int) -> list[Batch]:
    """Several times as many tokens as a layer has channels."""
    lengths = [len(example.tokens) for example in tokenize(train[:2048], tokenizer, MAX_TOKENS)]
    count = int(np.searchsorted(np.cumsum(lengths), _TOKENS_A_CHANNEL * channels)) + 1
    return list(calibration_batches(train, tokenizer, count))


def blocks_of(subnet: Subnetwork) -> Blocks:
    """The architecture of `subnet`."""
    sizes = [(layer.heads, layer.intermediate_size) for layer in subnet.layer_sizes]
    return tuple(layer for layer in sizes if any(layer))


def _weights(subnet: Subnetwork) -> tuple[int, int, int]:
    """Elements of the layers' weights, of their adapters and of the output head."""
    weights = [op for op in subnet.operators(1, 1) if op.kind == "weight"]
    layers = sum(op.elements for op in weights if op.name.startswith("layers."))
    adapters = subnet.parameter_count(merged=False) - subnet.parameter_count()
    return layers, adapters, sum(op.elements for op in weights) - layers


class Timings:
    """Measured speed-ups of architectures over the whole model, kept in a file; the prefill of one prompt on the CPU.

    Args:
        file: JSON, made and added to where something is missing.
        quick: the tiny model, whose layers' weights are counted instead: no clock finds other architectures then.
    """

    def __init__(self, file: Path, quick: bool) -> None:
        self.file, self.quick = file, quick
        model, tokenizer = load(quick)
        self.whole = blocks_of(SuperNetwork.from_pretrained(model, layer_skip(), tokenizer).largest)
        self.heads, self.channels = self.whole[0]
        self.group = self.heads // model.config.num_key_value_heads
        self.multiple = min(32, self.channels // 8)
        # [speed-up, standard error] by `_name`
        self._known: dict[str, list[float]] = {_name(self.whole): [1.0, 0.0]}
        if file.exists():
            self._known |= json.loads(file.read_text())["speedups"]

    def uniform(self, speedups: Iterable[float]) -> dict[float, Blocks]:
        """All MLPs at the one width that gives each speed-up; the narrowest tried where none does."""
        tried = sorted({self._rounded(fraction * self.channels) for fraction in _FRACTIONS} | {self.channels})
        found = self._sizes({width: self._narrow(width) for width in tried}, speedups)
        chosen = {speedup: self._narrow(self._rounded(size)) for speedup, size in found.items()}
        self.measured(chosen.values())
        return chosen

    def shallower(self, speedups: Iterable[float]) -> dict[float, Blocks]:
        """As many whole layers as give each speed-up."""
        depth = len(self.whole)
        tried = sorted({max(1, round(fraction * depth)) for fraction in _FRACTIONS} | {depth})
        found = self._sizes({layers: self.whole[:layers] for layers in tried}, speedups)
        chosen = {speedup: self.whole[: max(1, round(size))] for speedup, size in found.items()}
        self.measured(chosen.values())
        return chosen

    def forecast(self) -> Forecast:
        """The time of any architecture, from those of narrower, of shallower ones and of ones with fewer heads."""
        depth = len(self.whole)
        widths = [self._narrow(self._rounded(fraction * self.channels)) for fraction in _FRACTIONS]
        depths = [self.whole[: max(1, round(fraction * depth))] for fraction in _FRACTIONS]
        fewer = [((heads, self.channels),) * depth for heads in range(self.group, self.heads, self.group)]
        without = [((0, self.channels),) * depth]
        architectures = [self.whole, *widths, *depths, *fewer, *without]
        times = [1 / speedup for speedup, _ in self.measured(architectures)]
        costs, _ = nnls(np.array([_counts(blocks) for blocks in architectures]), np.array(times))
        return Forecast(tuple(map(float, costs)))

    def measured(self, architectures: Iterable[Blocks]) -> list[tuple[float, float]]:
        """Speed-up and standard error of each, those that are not known timed in turns with the whole model."""
        wanted = list(architectures)
        missing = {_name(blocks): blocks for blocks in wanted if _name(blocks) not in self._known}
        if missing:
            models = self._models([self.whole, *missing.values()])
            for name, (speedup, error) in zip(missing, self._speedups(models), strict=True):
                self._known[name] = [round(speedup, 4), round(error, 4)]
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.file) as file:
                about = {"threads": THREADS, "tokens": PREFILL, "speedups": self._known}
                file.write_text(json.dumps(about, indent=1) + "\n")
        return [(self._known[_name(blocks)][0], self._known[_name(blocks)][1]) for blocks in wanted]

    def _speedups(self, models: Sequence[PreTrainedModel]) -> list[tuple[float, float]]:
        """Speed-up and standard error of all but the first of `models`, over the first."""
        if self.quick:
            whole, *weights = [sum(p.numel() for p in model.get_decoder().layers.parameters()) for model in models]
            return [(whole / count, 0.0) for count in weights]
        with _threads(THREADS):
            result = compare_latency(models, tokens=PREFILL, repeats=20, wait_seconds=600)
        return list(zip(result.speedups[1:], result.speedup_stderrs[1:], strict=True))

    def _sizes(self, tried: dict[int, Blocks], speedups: Iterable[float]) -> dict[float, float]:
        """The size at each speed-up, given architectures by size; time is nearly linear in the size."""
        times = [1 / speedup for speedup, _ in self.measured(tried.values())]
        rising = np.maximum.accumulate(times)  # interpolation needs an order, which noise may break
        return {speedup: float(np.interp(1 / speedup, rising, list(tried))) for speedup in speedups}

    def _narrow(self, width: int) -> Blocks:
        return ((self.heads, width),) * len(self.whole)

    def _rounded(self, width: float) -> int:
        return min(self.channels, max(self.multiple, round(width / self.multiple) * self.multiple))

    def _models(self, architectures: Sequence[Blocks]) -> list[PreTrainedModel]:
        model, tokenizer = load(self.quick)
        sizes = [size for blocks in architectures for size in blocks]
        heads, widths = {count for count, _ in sizes if count}, {width for _, width in sizes if width}
        template = layer_skip() + attention_heads(heads) + mlp_width(widths)
        supernet = SuperNetwork.from_pretrained(model, template, tokenizer)
        space, models = supernet.space, []
        for blocks in architectures:
            # Which layers are missing makes no difference to the clock.
            padded = [*blocks, *[(0, 0)] * (len(self.whole) - len(blocks))]
            configuration = space.configuration(space.largest)
            for layer, (count, width) in enumerate(padded):
                kept = {f"layers.{layer}.attention.keep": count, f"layers.{layer}.mlp.keep": width}
                configuration |= {name: int(size > 0) for name, size in kept.items()}
                if count and len(heads) > 1:
                    configuration[f"layers.{layer}.attention.heads"] = count
                if width and len(widths) > 1:
                    configuration[f"layers.{layer}.mlp.width"] = width
            models.append(supernet.subnetwork(configuration).extract(share_embeddings=True))
        return models


@dataclass(frozen=True)
class Forecast(EvaluatorDefaults):
    """An evaluator: the time of a sub-network as a fraction of the whole model's.

    Args:
        costs: of everything else, of an attention block, of a head in it and of a channel of an MLP.
    """

    costs: tuple[float, ...]
    name: str = "time"
    unit: str = ""
    direction: Direction = "minimize"

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """A sum over blocks."""
        return Measurement(float(np.dot(_counts(blocks_of(subnet)), self.costs)))

    def settings(self) -> Mapping[str, Any]:
        """What blocks cost."""
        return {"costs": list(self.costs)}


def _counts(blocks: Blocks) -> list[float]:
    """How much there is of what costs time."""
    heads = [count for count, _ in blocks]
    return [1.0, float(sum(count > 0 for count in heads)), float(sum(heads)), float(sum(width for _, width in blocks))]


def _name(blocks: Blocks) -> str:
    return "+".join(f"{len(list(same))}x{heads}h{width}" for (heads, width), same in groupby(blocks))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
