"""The training loop: sample a sub-network, take the loss on the answers, step the adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor
from transformers import PreTrainedModel

from evaluators.classification.labelled import Learnable
from nas_engine.keywords import merged, takes
from nas_engine.progress import say
from nas_engine.supernet.supernetwork import SuperNetwork
from nas_engine.texts.batches import Batch
from nas_engine.texts.labelled import Learned, tokenize_for
from nas_engine.training.answers import WHOLE, BatchFraction, learned, predictions
from nas_engine.training.data_parallel import require_whole
from nas_engine.training.run import TrainingRun
from nas_engine.training.settings import TrainingSettings
from nas_engine.training.sharding import require_sharding
from nas_engine.training.strategies import genomes_of_batch
from nas_engine.training.teacher import Teacher
from nas_engine.training.visits import Visits
from search_spaces import Genome

# Of calibration; weights need several times as many as a layer has channels, an order fewer.
_CALIBRATION_TOKENS, _REFITTING_TOKENS = 8_192, 20_480


@dataclass(frozen=True)
class TrainingReport:
    """What a training run did.

    Args:
        losses: the mean loss on answer tokens of every step, in nats a token.
        visits: the sub-networks that took turns; see `nas_engine.jobs.heuristics` for what they are good for.
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


@takes(TrainingSettings)
def train(
    supernet: SuperNetwork,
    train_set: Sequence[Learnable],
    settings: TrainingSettings | int | None = None,
    *,
    teacher: Teacher | None = None,
    calibration: Sequence[Batch] | None = None,
    gradient_checkpointing: bool = False,
    sharded: bool = False,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 50,
    progress: bool = True,
    **fields: Any,
) -> TrainingReport:
    """Fine-tune the adapters of `supernet` while sub-networks take turns; the base stays frozen.

    Channels are ordered by importance first where a width is elastic and they are not yet ordered. Interrupted with a
    `checkpoint` folder, the same call goes on where it stopped and ends as if it had not been interrupted.

    Args:
        train_set: prompts with completions, such as questions; the loss is taken on the completions. For a classifier
            texts with labels, `evaluators.Labelled`.
        settings: how long, how fast and which sub-networks; or its fields by name, ``train(…, steps=60)``; or
            the number of steps alone.
        teacher: whose distribution every visited sub-network learns beside the answers, such as plain LoRA on the whole
            model: ``train(…, strategy="largest")``, then ``Teacher.of(supernet)``.
        calibration: texts that order channels and to which widths are fitted; None takes the first examples.
        gradient_checkpointing: compute activations anew in the backward pass instead of keeping them.
        sharded: in several processes, spread the frozen base over them (FSDP) while steps are taken; the super-network
            is whole before and after in each.
        checkpoint: folder for the run's state, written every `checkpoint_every` steps and on Ctrl-C.

    Raises:
        ValueError: a setting out of its bounds, an empty training set or one with an example that does not fit, a
            super-network without adapters, examples that the model cannot learn, or `sharded` in one process or with
            bits or zeros that vary.
        CompressionError: `refit` on a sparse or quantized base.
        CheckpointError: the folder holds a checkpoint of another run.
    """
    settings = merged(TrainingSettings, settings, fields, "steps")
    supernets = [supernet] if teacher is None or teacher.supernet is supernet else [supernet, teacher.supernet]
    models = [each.model for each in supernets]
    require_whole(models, sharded)
    if sharded:
        require_sharding(supernets)
    if teacher is not None and settings.distill:
        raise ValueError("distill lets the largest sub-network teach, and there is a teacher already; give one.")
    if not supernet.adapter_parameters:
        raise ValueError("this super-network has no adapters to train; add lora_rank(...) to its space.")
    if settings.refit:
        supernet.require_refit()
    examples = tokenize_for(supernet.model, train_set, supernet.tokenizer, settings.max_tokens)
    run = _Run(supernet, examples, settings, teacher, calibration, models if sharded else ())
    progress = progress and run.ranks.first
    folder = None if checkpoint is None else Path(checkpoint)
    resumed_at = run.resume(folder) if folder else 0
    if not supernet.ordered and settings.strategy != "largest":  # which is the same in any order
        say("Ordering heads and channels", enabled=progress)
        supernet.order_by_importance(run.calibration(), settings.refit)
    run.share_state()
    title = "Training the whole model" if settings.strategy == "largest" else "Training sub-networks"
    seconds = run.go(title, settings.steps, folder, checkpoint_every, gradient_checkpointing, progress)
    if settings.refit and not run.refitted:
        say("Fitting narrower widths to the trained network", enabled=progress)
        run.refit()
        run.share_state()
        if folder:
            run.save(folder)
    supernet.activate_genome(supernet.space.largest)
    supernet.model.eval()
    return TrainingReport(tuple(map(fmean, run.losses)), run.visits(), seconds, resumed_at)


def calibration_tokens(refit: bool) -> int:
    """About how many tokens of the first examples order heads and channels, and with `refit` fit widths."""
    return _REFITTING_TOKENS if refit else _CALIBRATION_TOKENS


class _Run(TrainingRun):
    """A run in which sub-networks of a super-network take turns."""

    def __init__(
        self,
        supernet: SuperNetwork,
        examples: Sequence[Learned],
        settings: TrainingSettings,
        teacher: Teacher | None,
        calibration: Sequence[Batch] | None = None,
        sharded: Sequence[PreTrainedModel] = (),
    ) -> None:
        self.supernet, self.teacher, self.texts = supernet, teacher, calibration
        identity = {
            "space": supernet.space.fingerprint(),
            "base": supernet.base_fingerprint,
            "adapter_mode": supernet.adapter.mode,
            "teacher": teacher and teacher.fingerprint(),
        }
        parameters = supernet.adapter_parameters
        self.settings: TrainingSettings
        super().__init__(supernet.model, supernet.tokenizer, parameters, examples, settings, identity, sharded)

    def calibration(self) -> Sequence[Batch]:
        """What was given for ordering and fitting, or the first examples."""
        if self.texts is not None:
            return self.texts
        return self.first(calibration_tokens(self.settings.refit))

    def visit(self, batch: dict[str, Tensor], micro: int, part: BatchFraction) -> list[float]:
        """See `TrainingRun.visit`."""
        s = self.settings
        return self.visit_genomes(batch, genomes_of_batch(self.supernet.space, s.strategy, s.seed, micro), part)

    def visit_genomes(self, batch: dict[str, Tensor], genomes: Genome, part: BatchFraction = WHOLE) -> list[float]:
        """Add the gradients of `genomes` on `batch`; the loss on the answers of each."""
        s = self.settings
        teacher = self.teacher.predictions(batch) if self.teacher is not None and s.distillation.asks else None
        losses, in_place = [], None  # what the largest says
        for genome in genomes:
            self.supernet.activate_genome(genome)
            said = predictions(self.model, batch)
            loss, answers = learned(said, teacher, s.distillation, part)
            losses.append(answers)
            if in_place is not None:
                loss = part.labels * said.imitating(in_place)
            elif s.distill:
                in_place = said
            if self.supernet.trains:
                (loss / (len(genomes) * s.accumulation)).backward()
        return losses

    def refit(self) -> None:
        """Fit narrower widths to the network as it is now."""
        self.supernet.refit(self.calibration())
        self.refitted = True

    def visits(self) -> Visits:
        """Which sub-networks took turns, at what loss."""
        space, s = self.supernet.space, self.settings
        micro_batches = range(len(self.losses) * s.accumulation)
        genomes = [genomes_of_batch(space, s.strategy, s.seed, micro) for micro in micro_batches]
        return Visits(space, np.vstack(genomes), tuple(loss for step in self.losses for loss in step))

    def state(self) -> dict[str, Tensor]:
        """See `TrainingRun.state`."""
        return self.supernet.state()

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """See `TrainingRun.load_state`."""
        self.supernet.load_state(tensors)
