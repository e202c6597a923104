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
    Blocks,
    Forecast,
    Load,
    Task,
    blocks_of,
    calibration,
    calibration_macs,
    forward_macs,
    sampled_macs,
    training_macs,
)
from benchmarks._common import load
from benchmarks.ordering import scores
from evaluators import Measurement
from nas_engine import Healed, Subnetwork, SuperNetwork, Teacher, heal, train
from nas_engine.jobs import heuristics
from nas_engine.supernet.ordering import input_norms
from nas_engine.texts.batches import Batch, readable, token_count
from nas_engine.texts.calibration import calibration_batches
from nas_engine.training import Distillation
from search_spaces import SpaceTemplate, Value, attention_heads, layer_skip, lora_rank, mlp_width

RANK, TARGETS, LEARNING_RATE = 32, ("q", "k", "v", "o", "gate", "up", "down"), 7e-4
WIDTHS = (1.0, 0.75, 0.5, 0.4375, 0.35, 0.25, 0.125)  # of an MLP, of which `ours` chooses
HEADS = (1.0, 2 / 3, 1 / 3)  # of attention
HINTS, FITTED = 64, 16384  # questions for the sensitivity, tokens of the fit to the teacher
ANSWERS = Distillation(weight=0.0)  # healing learns these alone
TRIES = 3  # at an architecture that is measured to be as fast as forecast


class BudgetError(ValueError):
    """A method cannot do with the budget."""


@dataclass(frozen=True)
class Outcome:
    """One trained network.

    Args:
        measurement: on held-out data.
        training_macs: that went into it.
        shared_macs: those of them that serve a whole front.
        blocks: its architecture.
    """

    measurement: Measurement
    training_macs: float
    shared_macs: float
    blocks: Blocks


@dataclass(frozen=True)
class Work:
    """What methods are given.

    Args:
        task: what is learned.
        tokenizer: of the model.
        load: of a training step.
        seed: of adapters, batches and sampling.
        steps: of LoRA on the whole model, which define the budget.
        budget: in multiply-accumulates.
        narrower: by speed-up, all layers at one width.
        shallower: by speed-up, fewer layers.
        forecast: the time of any architecture.
        timed: the measured speed-up of an architecture.
        share: of the budget of `ours` that goes into LoRA on the whole model.
        quick: a tiny model.
        device: where it computes.
        folder: for what an interrupted run goes on from.
        made: super-networks that serve several speed-ups, by method.
    """

    task: Task
    tokenizer: PreTrainedTokenizerBase
    load: Load
    seed: int
    steps: int
    budget: float
    narrower: Mapping[float, Blocks]
    shallower: Mapping[float, Blocks]
    forecast: Forecast
    timed: Callable[[Blocks], float]
    share: float
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
        train(supernet, self.task.train, steps=steps, **settings)

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
        return (1.0, *(self.width(speedup) for speedup in self.narrower))

    def width(self, speedup: float) -> int:
        """The uniform width of a speed-up."""
        return self.narrower[speedup][0][1]


Method = Callable[[Work, float], Outcome]  # given the speed-up


def lora(work: Work, speedup: float, cut: str = "") -> Outcome:
    """LoRA on the whole model, or on one that the method `cut` made smaller before, with all of the budget."""
    model, spent = None, 0.0
    if cut == "layers":
        model, spent = _shallower(work, len(work.shallower[speedup]))
    elif cut:
        model, spent = _narrower(work, work.width(speedup), cut)
    supernet = work.supernet(lora_rank((RANK,), TARGETS), model)
    step = training_macs(supernet.largest, work.load)
    steps = work.affordable(work.budget - spent, step)
    work.train(supernet, steps, strategy="largest")
    return Outcome(work.judged(supernet.largest), spent + steps * step, spent, blocks_of(supernet.largest))


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
    subnet = _uniform(supernet, work.width(speedup))
    return Outcome(work.judged(subnet), spent, spent, blocks_of(subnet))


def ours(work: Work, speedup: float) -> Outcome:
    """LoRA on the whole model, channels ordered and fitted to what it learned, the blocks and widths of the least
    summed sensitivity at that speed, fitted to the teacher's stream and healed with all that is left.
    """
    if "ours" not in work.made:
        work.made["ours"] = _tuned(work)
    supernet, teacher, sensitivity, spent = work.made["ours"]
    subnet = _at_speed(work, supernet, sensitivity, speedup)
    fit = forward_macs(supernet.largest, Load(FITTED, 0)) + forward_macs(subnet, Load(FITTED, 0))
    fit += sum(FITTED * width**2 + width**3 for _, width in blocks_of(subnet))
    step = training_macs(subnet, work.load)
    steps = work.affordable(work.budget - spent - fit, step)
    healed = heal(subnet, work.task.train, steps=steps, teacher=teacher, distillation=ANSWERS, fit_tokens=FITTED,
                  learning_rate=LEARNING_RATE, batch_size=BATCH, seed=work.seed, progress=False)  # fmt: skip
    return Outcome(work.judged(healed), spent + fit + steps * step, spent, blocks_of(subnet))


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


def _tuned(work: Work) -> tuple[SuperNetwork, Teacher, Mapping[str, Sequence[float]], float]:
    """The super-network that all speed-ups share, its teacher, how much its genes matter, and the price of all."""
    supernet = work.supernet(lora_rank((RANK,), TARGETS) + mlp_width(WIDTHS) + attention_heads(HEADS) + layer_skip())
    whole = supernet.largest
    steps = max(1, round(work.share * work.steps))
    spent = steps * training_macs(whole, work.load)
    work.train(supernet, steps, strategy="largest", checkpoint=work.folder / "lora")
    batches = work.batches(supernet)
    spent += calibration_macs(whole, batches, fitted=True)
    supernet.order_by_importance(batches, refit=True)
    texts = list(calibration_batches(work.task.train, work.tokenizer, HINTS))
    # Forward, backward, and each width's product beside the whole one's.
    read = Load(token_count(texts), token_count(texts))
    spent += 2 * forward_macs(whole, read) + len(WIDTHS) * forward_macs(whole, read) / 4
    return supernet, Teacher.of(supernet), supernet.sensitivity(texts, progress=False), spent


def _at_speed(
    work: Work, supernet: SuperNetwork, sensitivity: Mapping[str, Sequence[float]], speedup: float
) -> Subnetwork:
    """The sub-network of the least summed sensitivity that is measured to be as fast; forecasts are corrected.

    Raises:
        BudgetError: none is forecast to be, or it has nothing to train.
    """
    bound = 1 / speedup
    for _ in range(TRIES):
        try:
            subnet = supernet.subnetwork(heuristics.least_loss(supernet, sensitivity, work.forecast, bound))
        except ValueError as error:
            raise BudgetError(f"no architecture is {speedup:g} times as fast: {error}") from error
        if not subnet.trains:
            raise BudgetError(f"at {speedup:g} times the speed no block is left to train.")
        measured = work.timed(blocks_of(subnet))
        if measured >= speedup:
            break
        bound *= measured / speedup
    return subnet


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
    for batch in readable(batches, model):
        mask = batch["attention_mask"]
        states = model.base_model(
            input_ids=batch["input_ids"], attention_mask=mask, use_cache=False, output_hidden_states=True
        ).hidden_states
        read = [state[mask.bool()].float() for state in states]
        cosines.append(torch.stack([F.cosine_similarity(a, b, dim=-1) for a, b in pairwise(read)]))
    return 1 - torch.cat(cosines, 1).mean(1)
