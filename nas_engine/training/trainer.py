"""The training loop: sample a sub-network, take the loss on the answers, step the adapters."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from evaluators.head import logits_of
from nas_engine.progress import progress_bar, say
from nas_engine.supernet.supernetwork import SuperNetwork
from nas_engine.training.checkpoint import (
    Checkpoint,
    load_optimizer,
    optimizer_tensors,
    read_checkpoint,
    write_checkpoint,
)
from nas_engine.training.data import IGNORED, TextPair, TokenizedExample, batch_indices, batch_of, tokenize
from nas_engine.training.strategies import STRATEGIES, Strategy, genomes_of_batch
from nas_engine.training.visits import Visits
from search_spaces import Genome

_CALIBRATION_EXAMPLES, _REFITTING_EXAMPLES, _CALIBRATION_ROWS = 256, 1024, 32  # weights need more than an order does


@dataclass(frozen=True)
class TrainingSettings:
    """All that shapes a training run; see `train`."""

    steps: int
    batch_size: int
    learning_rate: float
    strategy: Strategy
    accumulation: int
    warmup: float
    weight_decay: float
    max_gradient_norm: float
    max_tokens: int
    seed: int
    distill: bool = False
    refit: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy is {self.strategy!r}; choose one of {', '.join(STRATEGIES)}.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0.")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup is {self.warmup}; give the fraction of the steps, from 0 to 1.")
        if self.distill and self.strategy != "sandwich":
            raise ValueError('distill needs strategy="sandwich", whose largest sub-network teaches the others.')


@dataclass(frozen=True)
class TrainingReport:
    """What a training run did.

    Args:
        losses: the mean loss on answer tokens of every step, in nats a token.
        visits: the sub-networks that took turns; see `nas_engine.heuristics` for what they are good for.
        seconds: wall-clock of the steps that this call took, without ordering and fitting.
        resumed_at: the step that this call began with; 0 for a fresh run.
    """

    losses: tuple[float, ...]
    visits: Visits
    seconds: float
    resumed_at: int

    @property
    def frame(self) -> pd.DataFrame:
        """One row a step, with its loss."""
        return pd.DataFrame({"step": range(1, len(self.losses) + 1), "loss": self.losses})


def train(
    supernet: SuperNetwork,
    train_set: Sequence[TextPair],
    steps: int,
    *,
    batch_size: int = 16,
    learning_rate: float = 3e-4,
    strategy: Strategy = "uniform",
    accumulation: int = 1,
    warmup: float = 0.1,
    weight_decay: float = 0.0,
    max_gradient_norm: float = 1.0,
    max_tokens: int = 1024,
    distill: bool = False,
    gradient_checkpointing: bool = False,
    refit: bool = False,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 50,
    progress: bool = True,
) -> TrainingReport:
    """Fine-tune the adapters of `supernet` while sub-networks take turns; the base stays frozen.

    Channels are ordered by importance first where a width is elastic and they are not yet ordered. AdamW; the learning
    rate rises linearly over the warm-up and falls to zero as a cosine. Interrupted with a `checkpoint` folder, the
    same call goes on where it stopped and ends as if it had not been interrupted.

    Args:
        train_set: prompts with completions, such as questions; the loss is taken on the completions.
        steps: optimizer steps.
        batch_size: examples of a micro-batch.
        strategy: ``"uniform"``, one random sub-network a micro-batch; ``"sandwich"``, the largest, the smallest and two
            random ones; or ``"turns"``, one of the largest, the smallest and a random one, in turns.
        accumulation: micro-batches of a step.
        warmup: fraction of the steps.
        max_gradient_norm: gradients are scaled down to this norm.
        max_tokens: longest example allowed.
        distill: with the sandwich rule, the largest sub-network's predictions are what the others learn (in-place
            distillation: Yu and Huang, 2019, arXiv 1903.05134, section 3.3).
        gradient_checkpointing: compute activations anew in the backward pass instead of keeping them.
        refit: fit narrower widths to what they leave out, where channels are ordered here and, on the trained network,
            once more at the end; see `SuperNetwork.refit`.
        checkpoint: folder for the run's state, written every `checkpoint_every` steps and on Ctrl-C.

    Raises:
        ValueError: a setting out of its bounds, an empty training set or one with an example that does not fit, a
            super-network without adapters, or an encoder.
        CompressionError: `refit` on a sparse or quantized base.
        CheckpointError: the folder holds a checkpoint of another run.
    """
    settings = TrainingSettings(
        steps,
        batch_size,
        learning_rate,
        strategy,
        accumulation,
        warmup,
        weight_decay,
        max_gradient_norm,
        max_tokens,
        seed,
        distill,
        refit,
    )
    if supernet.model.get_output_embeddings() is None:
        raise ValueError(
            f"{type(supernet.model).__name__} predicts no text; train it with transformers.Trainer and "
            "nas_engine.training.SubnetworkSampler."
        )
    if not supernet.adapter_parameters:
        raise ValueError("this super-network has no adapters to train; add lora_rank(...) to its space.")
    if refit:
        supernet.require_refit()
    examples = tokenize(train_set, supernet.tokenizer, max_tokens)
    run = _Run(supernet, examples, settings)
    folder = None if checkpoint is None else Path(checkpoint)
    resumed_at = run.resume(folder) if folder else 0
    if not supernet.ordered:
        say("Ordering heads and channels", enabled=progress)
        supernet.order_by_importance(run.calibration(), refit)
    started = time.perf_counter()
    with progress_bar("Training", steps, enabled=progress, completed=resumed_at) as bar:
        try:
            if gradient_checkpointing:
                supernet.model.gradient_checkpointing_enable({"use_reentrant": False})
            for step in range(resumed_at, steps):
                bar.advance(loss=run.step(step))
                if folder and (step + 1) % checkpoint_every == 0:
                    run.save(folder)
        finally:
            if gradient_checkpointing:
                supernet.model.gradient_checkpointing_disable()
            if folder and run.consistent:
                run.save(folder)
    seconds = time.perf_counter() - started
    if refit and not run.refitted:
        say("Fitting narrower widths to the trained network", enabled=progress)
        run.refit()
        if folder:
            run.save(folder)
    supernet.activate_genome(supernet.space.largest)
    supernet.model.eval()
    return TrainingReport(tuple(map(fmean, run.losses)), run.visits(), seconds, resumed_at)


def answer_loss(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the labelled tokens."""
    return F.cross_entropy(*answer_logits(model, batch))


def answer_logits(model: PreTrainedModel, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits where a labelled token is predicted, shape (labelled tokens, vocabulary), and the labels there.

    The output head runs at these positions alone.
    """
    hidden = model.base_model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).last_hidden_state  # (rows, tokens, hidden)
    labels = batch["labels"][:, 1:]
    scored = labels != IGNORED
    return logits_of(model, hidden[:, :-1][scored]), labels[scored]


def learning_rate_at(step: int, settings: TrainingSettings) -> float:
    """Linear warm-up from zero, then a cosine to zero."""
    warmup_steps = math.ceil(settings.warmup * settings.steps)
    if step < warmup_steps:
        return settings.learning_rate * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, settings.steps - warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


class _Run:
    """The state of one training run, which a checkpoint holds entirely."""

    def __init__(self, supernet: SuperNetwork, examples: list[TokenizedExample], settings: TrainingSettings) -> None:
        self.supernet, self.examples, self.settings = supernet, examples, settings
        self.lengths = tuple(len(example.tokens) for example in examples)
        self.losses: list[list[float]] = []  # of every visit, by step
        self.consistent = True  # weights, moments and losses stand at the same step
        self.refitted = False  # after the last step
        self.optimizer = torch.optim.AdamW(
            supernet.adapter_parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        digest = hashlib.sha256(repr(examples).encode()).hexdigest()[:16]
        self.identity: dict[str, Any] = asdict(settings) | {
            "train_set": digest,
            "space": supernet.space.fingerprint(),
            "base": supernet.base_fingerprint,
            "combination": supernet.adapter.combination,
        }

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        tokenizer = self.supernet.tokenizer
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        return batch_of([self.examples[i] for i in indices], pad, self.supernet.model.device)

    def calibration(self) -> list[dict[str, Tensor]]:
        """The first examples, those of similar length together."""
        count = _REFITTING_EXAMPLES if self.settings.refit else _CALIBRATION_EXAMPLES
        first = sorted(range(min(len(self.examples), count)), key=self.lengths.__getitem__)
        return [self.batch(first[i : i + _CALIBRATION_ROWS]) for i in range(0, len(first), _CALIBRATION_ROWS)]

    def step(self, step: int) -> float:
        s, supernet = self.settings, self.supernet
        supernet.model.train()
        self.optimizer.param_groups[0]["lr"] = learning_rate_at(step, s)
        losses = []
        # Dropout draws from torch's global state: seeded by step, so that resuming draws the same.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(s.seed * 1_000_003 + step)
            for micro in range(step * s.accumulation, (step + 1) * s.accumulation):
                batch = self.batch(batch_indices(micro, s.batch_size, self.lengths, s.seed))
                losses += self._visit(batch, genomes_of_batch(supernet.space, s.strategy, s.seed, micro))
        torch.nn.utils.clip_grad_norm_(supernet.adapter_parameters, s.max_gradient_norm)
        self.consistent = False
        self.optimizer.step()
        self.losses.append(losses)
        self.consistent = True
        self.optimizer.zero_grad()
        return fmean(losses)

    def _visit(self, batch: dict[str, Tensor], genomes: Genome) -> list[float]:
        """Add the gradients of `genomes` on `batch`; the loss on the answers of each."""
        losses, teacher = [], None  # the largest's probabilities, shape (labelled tokens, vocabulary)
        for genome in genomes:
            self.supernet.activate_genome(genome)
            logits, labels = answer_logits(self.supernet.model, batch)
            loss = F.cross_entropy(logits, labels)
            losses.append(loss.item())
            if teacher is not None:
                loss = F.cross_entropy(logits, teacher)
            elif self.settings.distill:
                teacher = logits.detach().softmax(-1)
            if self.supernet.trains:
                (loss / (len(genomes) * self.settings.accumulation)).backward()
        return losses

    def refit(self) -> None:
        self.supernet.refit(self.calibration())
        self.refitted = True

    def visits(self) -> Visits:
        space, s = self.supernet.space, self.settings
        micro_batches = range(len(self.losses) * s.accumulation)
        genomes = [genomes_of_batch(space, s.strategy, s.seed, micro) for micro in micro_batches]
        return Visits(space, np.vstack(genomes), tuple(loss for step in self.losses for loss in step))

    def save(self, folder: Path) -> None:
        state, moments = self.supernet.state(), optimizer_tensors(self.optimizer)
        write_checkpoint(folder, Checkpoint(self.losses, self.identity, state, moments, self.refitted))

    def resume(self, folder: Path) -> int:
        found = read_checkpoint(folder, self.identity)
        if found is None:
            return 0
        self.supernet.load_state(found.state)
        load_optimizer(self.optimizer, found.optimizer)
        self.losses, self.refitted = list(found.losses), found.refitted
        return len(self.losses)
