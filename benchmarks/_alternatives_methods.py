"""Ways to a small model that fits a task, each with the same budget of multiply-accumulates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks._alternatives import (
    BATCH,
    Load,
    Task,
    Widths,
    calibration,
    calibration_macs,
    forward_macs,
    sampled_macs,
    training_macs,
    widths_of,
)
from benchmarks._common import load
from benchmarks.ordering import scores
from evaluators import Measurement, ParameterCount
from nas_engine import Healed, Subnetwork, SuperNetwork, Teacher, heal, search, train
from nas_engine.batches import Batch, on_device
from nas_engine.search.errors import SelectionError
from nas_engine.supernet.ordering import input_norms
from nas_engine.training.checkpoint import FILE as CHECKPOINT
from search_spaces import SpaceTemplate, Value, layer_skip, lora_rank, mlp_width

RANK, TARGETS, LEARNING_RATE = 32, ("q", "k", "v", "o", "gate", "up", "down"), 7e-4


class BudgetError(ValueError):
    """A method cannot do with the budget."""


@dataclass(frozen=True)
class Outcome:
    """One trained network.

    Args:
        measurement: on held-out data.
        training_macs: that went into it.
        shared_macs: those of them that serve a whole front.
        widths: its architecture.
    """

    measurement: Measurement
    training_macs: float
    shared_macs: float
    widths: Widths


@dataclass(frozen=True)
class Split:
    """How `ours` spends its budget: on LoRA, on the super-network, and the rest on healing."""

    lora: float = 0.4
    supernet: float = 0.2


@dataclass(frozen=True)
class Work:
    """What methods are given.

    Args:
        task: what is learned.
        tokenizer: of the model.
        load: of a training step.
        guide_load: of a validation.
        seed: of adapters, batches and sampling.
        steps: of LoRA on the whole model, which define the budget.
        budget: in multiply-accumulates.
        narrower: by speed-up, all layers at one width.
        shallower: by speed-up, fewer layers.
        split: of the budget of `ours`.
        searched: evaluations of a search for `ours`; 0 takes the uniform widths.
        quick: a tiny model.
        device: where it computes.
        folder: for what an interrupted run goes on from.
        made: super-networks that serve several speed-ups, by method.
    """

    task: Task
    tokenizer: PreTrainedTokenizerBase
    load: Load
    guide_load: Load
    seed: int
    steps: int
    budget: float
    narrower: Mapping[float, Widths]
    shallower: Mapping[float, Widths]
    split: Split
    searched: int
    quick: bool
    device: str
    folder: Path
    made: dict[str, Any] = field(default_factory=dict)

    def supernet(self, space: SpaceTemplate, model: PreTrainedModel | None = None) -> SuperNetwork:
        """One of `model`, or else of the untrained one."""
        model = load(self.quick)[0] if model is None else model
        return SuperNetwork.from_pretrained(model, space, self.tokenizer, seed=self.seed, device=self.device)

    def train(self, supernet: SuperNetwork, steps: int, **settings: Any) -> None:
        """`nas_engine.train`, the same for all methods."""
        settings |= {"batch_size": BATCH, "learning_rate": LEARNING_RATE, "seed": self.seed, "progress": False}
        train(supernet, self.task.train, steps, **settings)

    def affordable(self, macs: float, step: float) -> int:
        """The number of training steps at the price `step` that comes nearest to `macs`.

        Raises:
            BudgetError: it is 0; a quick run takes one step all the same.
        """
        steps = round(macs / step)
        if steps < 1 and not self.quick:
            raise BudgetError(
                f"of {self.budget:.3g} MACs, {macs:.3g} are left for steps of {step:.3g}; give more --steps."
            )
        return max(1, steps)

    def batches(self, supernet: SuperNetwork) -> list[Batch]:
        """Calibration texts."""
        return calibration(self.task.train, self.tokenizer, supernet.layers[0].full_width)

    def judged(self, subnet: Subnetwork | Healed) -> Measurement:
        """What would be deployed, on held-out data."""
        return self.task.judge.measure(subnet.extract(), self.tokenizer)

    @property
    def widths(self) -> tuple[float | int, ...]:
        """The full width, and that of every speed-up."""
        return (1.0, *(widths[0] for widths in self.narrower.values()))


Method = Callable[[Work, float], Outcome]  # given the speed-up


def lora(work: Work, speedup: float, cut: str = "") -> Outcome:
    """LoRA on the whole model, or on one that the method `cut` made smaller before, with all of the budget."""
    model, spent = None, 0.0
    if cut == "layers":
        model, spent = _shallower(work, len(work.shallower[speedup]))
    elif cut:
        model, spent = _narrower(work, work.narrower[speedup][0], cut)
    supernet = work.supernet(lora_rank((RANK,), TARGETS), model)
    step = training_macs(supernet.largest, work.load)
    steps = work.affordable(work.budget - spent, step)
    work.train(supernet, steps, strategy="largest")
    return Outcome(work.judged(supernet.largest), spent + steps * step, spent, widths_of(supernet.largest))


def lonas(work: Work, speedup: float) -> Outcome:
    """A sub-network of uniform width off a super-network trained as LoNAS was, with all of the budget."""
    if "lonas" not in work.made:
        # The published genes; widths as the speed-ups need them, for those published end at one half.
        space = lora_rank((32, 28), ("q", "k", "v")) + lora_rank((32, 28), ("gate", "up")) + lora_rank((32,), ("down",))
        supernet = work.supernet(space + mlp_width(work.widths))
        for layer in supernet.layers:  # channels stay as the checkpoint has them, and training is told so
            layer.permute("channels", torch.arange(layer.full_width, device=supernet.model.device))
        step = sampled_macs(supernet, work.load, work.seed)
        steps = work.affordable(work.budget, step)
        work.train(supernet, steps, strategy="uniform", checkpoint=work.folder / "lonas")
        work.made["lonas"] = supernet, steps * step
    supernet, spent = work.made["lonas"]
    subnet = _uniform(supernet, work.narrower[speedup][0])
    return Outcome(work.judged(subnet), spent, spent, widths_of(subnet))


def ours(work: Work, speedup: float) -> Outcome:
    """LoRA, order and fit, a super-network with the tuned model as its teacher, a sub-network, healing."""
    if "ours" not in work.made:
        work.made["ours"] = _taught(work)
    supernet, teacher, spent = work.made["ours"]
    subnet = _uniform(supernet, work.narrower[speedup][0])
    if work.searched:
        subnet, price = _searched(work, supernet, subnet)
        spent += price
    step = training_macs(subnet, work.load) + forward_macs(supernet.largest, work.load)
    steps = work.affordable(work.budget - spent, step)
    healed = heal(subnet, work.task.train, steps, teacher=teacher, learning_rate=LEARNING_RATE, batch_size=BATCH,
                  seed=work.seed, progress=False)  # fmt: skip
    return Outcome(work.judged(healed), spent + steps * step, spent, widths_of(subnet))


METHODS: Mapping[str, Method] = {
    "lora": lora,
    **{cut: partial(lora, cut=cut) for cut in ("magnitude", "wanda", "fitted", "layers")},
    "lonas": lonas,
    "ours": ours,
}


def _uniform(supernet: SuperNetwork, width: int) -> Subnetwork:
    """The sub-network of the largest ranks with all MLPs at `width`."""
    widths: dict[str, Value] = {gene.name: width for gene in supernet.space.genes if gene.dimension == "mlp_width"}
    return supernet.subnetwork(supernet.space.configuration(supernet.space.largest) | widths)


def _taught(work: Work) -> tuple[SuperNetwork, Teacher, float]:
    """The super-network that all speed-ups share, its teacher, and the price of both."""
    supernet = work.supernet(lora_rank((RANK,), TARGETS) + mlp_width(work.widths, layers_per_gene=3))
    whole = supernet.largest
    steps = max(1, round(work.split.lora * work.steps))
    spent = steps * training_macs(whole, work.load)
    work.train(supernet, steps, strategy="largest", checkpoint=work.folder / "lora")
    teacher = Teacher.of(supernet)
    batches = work.batches(supernet)
    spent += calibration_macs(whole, batches, fitted=True)
    if not (work.folder / "supernet" / CHECKPOINT).exists():  # which holds the order
        supernet.order_by_importance(batches, refit=True)
    step = sampled_macs(supernet, work.load, work.seed) + forward_macs(whole, work.load)
    steps = work.affordable(work.split.supernet * work.budget, step)
    work.train(supernet, steps, strategy="uniform", teacher=teacher, checkpoint=work.folder / "supernet")
    return supernet, teacher, spent + steps * step


def _searched(work: Work, supernet: SuperNetwork, uniform: Subnetwork) -> tuple[Subnetwork, float]:
    """The best sub-network found that is no larger than `uniform`, and the price of the search."""
    guide = work.task.guide
    result = search(supernet, [guide, ParameterCount()], "surrogate", work.searched, min(20, work.searched),
                    seed=work.seed, storage=work.folder / "search", progress=False)  # fmt: skip
    # Evaluations share layers, but are charged as if each had been alone.
    price = sum(forward_macs(result.subnetwork(row), work.guide_load) for _, row in result.frame.iterrows())
    direction = {guide.direction: guide.name}
    try:
        return result.select(**direction, where=f"parameters <= {uniform.parameter_count()}"), price
    except SelectionError:
        return uniform, price


@torch.no_grad()
def _narrower(work: Work, width: int, order: str) -> tuple[PreTrainedModel, float]:
    """The model with all MLPs cut to `width` channels, and the price of their order."""
    supernet = work.supernet(mlp_width((1.0, width)))
    spent = 0.0
    if order == "fitted":
        batches = work.batches(supernet)
        spent = calibration_macs(supernet.largest, batches, fitted=True)
        supernet.order_by_importance(batches, refit=True)
    else:
        norms: dict[str, Tensor] = {}
        if order == "wanda":
            batches = work.batches(supernet)
            spent = calibration_macs(supernet.largest, batches)
            norms = input_norms(supernet.model, supernet.elastic_linears, batches)
        score = scores(norms)[{"magnitude": "weight_norm", "wanda": "wanda_sum"}[order]]
        for layer in supernet.layers:
            layer.permute("channels", score(layer).argsort(descending=True, stable=True))
    return _uniform(supernet, width).extract(), spent


def _shallower(work: Work, left: int) -> tuple[PreTrainedModel, float]:
    """The model with the `left` layers of the largest block influence, and the price of measuring it."""
    supernet = work.supernet(layer_skip())
    batches = work.batches(supernet)
    influence = block_influence(supernet.largest.model, batches)
    gone = influence.argsort(stable=True)[: len(influence) - left].tolist()
    out = {f"layers.{layer}.{block}.keep": 0 for layer in gone for block in ("attention", "mlp")}
    model = supernet.subnetwork(dict(supernet.largest.configuration) | out).extract()
    return model, calibration_macs(supernet.largest, batches)


@torch.no_grad()
def block_influence(model: PreTrainedModel, batches: Sequence[Batch]) -> Tensor:
    """One less the mean cosine of what a layer reads and what it gives, shape (layers,): ShortGPT's, equation 1."""
    cosines = []  # of each batch, shape (layers, tokens)
    for batch in on_device(batches, model.device):
        mask = batch["attention_mask"]
        states = model.base_model(
            input_ids=batch["input_ids"], attention_mask=mask, use_cache=False, output_hidden_states=True
        ).hidden_states
        read = [state[mask.bool()].float() for state in states]
        cosines.append(torch.stack([F.cosine_similarity(a, b, dim=-1) for a, b in pairwise(read)]))
    return 1 - torch.cat(cosines, 1).mean(1)
