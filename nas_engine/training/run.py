"""Steps of AdamW over answers, and the checkpoint that holds them: what super-network training and healing share."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.text.positions import most_positions
from evaluators.whole_file import remove_unfinished
from nas_engine.errors import CheckpointError
from nas_engine.progress import progress_bar
from nas_engine.texts.labelled import Learned, TokenizedLabel, collated
from nas_engine.training.answers import BatchFraction
from nas_engine.training.checkpoint import (
    Checkpoint,
    load_optimizer,
    optimizer_tensors,
    read_checkpoint,
    write_checkpoint,
)
from nas_engine.training.data_parallel import Ranks
from nas_engine.training.epochs import batch_indices
from nas_engine.training.settings import StepSettings
from nas_engine.training.sharding import in_parts, shard_device

ORDERING_ROWS = 32  # of a batch of the first examples


def require_readable(model: PreTrainedModel, lengths: Sequence[int]) -> None:
    """Check that `model` reads examples of so many tokens each: some architectures compute beyond their positions, and
    some fail there in the middle of an epoch.

    Raises:
        ValueError: one is longer (its position is named).
    """
    most = most_positions(model)
    if most is not None and max(lengths) > most:
        raise ValueError(
            f"training example {lengths.index(max(lengths))} has {max(lengths)} tokens, but the model reads {most}; "
            "shorten it, or leave it out."
        )


class TrainingRun(ABC):
    """The state of one training run, which a checkpoint holds entirely.

    Args:
        model: whose `parameters` are trained.
        tokenizer: for its padding.
        parameters: what the optimizer moves.
        examples: tokenized.
        settings: of the run.
        identity: what a checkpoint must share beside settings and examples to be gone on from.
        sharded: networks whose frozen weights are spread over processes while steps are taken.

    Raises:
        ValueError: processes or networks that cannot train together, or cannot be sharded.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        parameters: Sequence[nn.Parameter],
        examples: Sequence[Learned],
        settings: StepSettings,
        identity: Mapping[str, Any],
        sharded: Sequence[PreTrainedModel] = (),
    ) -> None:
        self.model, self.parameters = model, list(parameters)
        self.examples, self.settings = examples, settings
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self.lengths = tuple(len(example.tokens) for example in examples)
        self.labelled = tuple(map(_labelled, examples))
        require_readable(model, self.lengths)
        self.losses: list[list[float]] = []  # of every visit, by step
        self.consistent = True  # weights, moments and losses stand at the same step
        self.refitted = False  # after the last step
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        digest = hashlib.sha256(repr(examples).encode()).hexdigest()[:16]
        self.identity: dict[str, Any] = asdict(settings) | {"train_set": digest} | dict(identity)
        self.sharded = list(sharded)
        self.ranks = Ranks.joined(shard_device(model.device) if sharded else model.device)
        # Not of what a checkpoint must share: a run may go on sharded, or no longer.
        self.ranks.require_same(self.identity | {"sharded": bool(sharded)}, settings.batch_size)

    @abstractmethod
    def visit(self, batch: dict[str, Tensor], micro: int, part: BatchFraction) -> list[float]:
        """Add the gradients of micro-batch number `micro`; the loss on the answers of each network that saw it.

        Args:
            batch: of the micro-batch this process's rows.
            micro: its number.
            part: how much of it that is; gradients and losses are summands of the whole micro-batch's.
        """

    @abstractmethod
    def state(self) -> Mapping[str, Tensor]:
        """All that training changes, by name."""

    @abstractmethod
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The examples at `indices`, padded, on the model's device."""
        return collated([self.examples[i] for i in indices], self.pad, self.model.device)

    def first(self, tokens: int) -> list[dict[str, Tensor]]:
        """The first examples, about `tokens` tokens of them, those of similar length together."""
        count = int(np.searchsorted(np.cumsum(self.lengths), tokens)) + 1
        first = sorted(range(min(len(self.examples), count)), key=self.lengths.__getitem__)
        return [self.batch(first[i : i + ORDERING_ROWS]) for i in range(0, len(first), ORDERING_ROWS)]

    def step(self, step: int) -> float:
        """One step of the optimizer; the mean loss on the answers."""
        s = self.settings
        self.model.train()
        self.optimizer.param_groups[0]["lr"] = s.learning_rate_at(step)
        losses = []
        # Dropout draws from torch's global state: seeded by step, so that resuming draws the same, and by process.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(s.seed * 1_000_003 + step + (self.ranks.rank << 40))
            for micro in range(step * s.accumulation, (step + 1) * s.accumulation):
                indices = batch_indices(micro, s.batch_size, self.lengths, s.seed)
                part = self.ranks.part(indices, self.labelled, self.lengths)
                losses += self.visit(self.batch(self.ranks.own(indices)), micro, part)
        losses = self.ranks.totals(losses)
        self.ranks.add_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, s.max_gradient_norm)
        self.consistent = False
        self.optimizer.step()
        self.losses.append(losses)
        self.consistent = True
        self.optimizer.zero_grad()
        return fmean(losses)

    def go(
        self,
        title: str,
        until: int,
        folder: Path | None,
        checkpoint_every: int,
        gradient_checkpointing: bool,
        progress: bool,
    ) -> float:
        """Take the steps up to number `until`; their seconds. Ctrl-C leaves a checkpoint in `folder`."""
        done = len(self.losses)
        with (
            in_parts(self.sharded, self.ranks.device),
            progress_bar(title, until, enabled=progress and self.ranks.first, completed=done) as bar,
        ):
            if self.sharded:  # moments follow their parameters
                self.optimizer.load_state_dict(self.optimizer.state_dict())
            started = time.perf_counter()
            try:
                if gradient_checkpointing:
                    self.model.gradient_checkpointing_enable({"use_reentrant": False})
                for step in range(done, until):
                    bar.advance(loss=self.step(step))
                    if folder and (step + 1) % checkpoint_every == 0:
                        self.save(folder)
            finally:
                if gradient_checkpointing:
                    self.model.gradient_checkpointing_disable()
                if folder and self.consistent and len(self.losses) > done:
                    self.save(folder)
            self.model.eval()
            return time.perf_counter() - started

    def share_state(self) -> None:
        """Begin, or end, with what process 0 has: devices may round orders and fits differently."""
        if self.ranks.size > 1:
            tensors = self.ranks.tensors_of_first(self.state())
            if not self.ranks.first:
                self.load_state(tensors)

    def save(self, folder: Path) -> None:
        """Replace the checkpoint in `folder`; process 0 does."""
        if not self.ranks.first:
            return
        moments = optimizer_tensors(self.optimizer)
        write_checkpoint(folder, Checkpoint(self.losses, self.identity, self.state(), moments, self.refitted))

    def resume(self, folder: Path) -> int:
        """Go on from the checkpoint in `folder`, if there is one; the step that comes next.

        Raises:
            CheckpointError: it belongs to a run with other settings, or cannot be read.
        """
        found = self.ranks.from_first(lambda: self._found(folder))
        if found is None:
            return 0
        try:
            self.load_state(found.state)
            load_optimizer(self.optimizer, found.optimizer)
        except CheckpointError as error:
            raise CheckpointError(f"the checkpoint in {folder} is damaged: {error} Delete it to train anew.") from error
        self.losses, self.refitted = list(found.losses), found.refitted
        return len(self.losses)

    def _found(self, folder: Path) -> Checkpoint | None:
        remove_unfinished(folder)
        found = read_checkpoint(folder, self.identity)
        if found is not None and (len(found.losses) > self.settings.steps or not all(found.losses)):
            raise CheckpointError(f"the checkpoint in {folder} has {len(found.losses)} steps; delete it to train anew.")
        return found


def _labelled(example: Learned) -> int:
    """Tokens on which the loss is taken, of which the first of a text is none; 1 of a text with a label."""
    if isinstance(example, TokenizedLabel):
        return 1
    return sum(end - max(start, 1) for start, end in example.spans)
