"""Super-network training inside Hugging Face's `Trainer`: a callback that lets sub-networks take turns."""

from __future__ import annotations

import warnings
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nas_engine.errors import NasEngineWarning
from nas_engine.supernet.supernetwork import SuperNetwork
from nas_engine.training.data_parallel import shards_by_accelerate
from nas_engine.training.strategies import genomes_of_batch


class SubnetworkSampler(TrainerCallback):
    """Activates a sub-network drawn uniformly at random for every micro-batch of a `Trainer`.

    One that leaves out every adapter has nothing to train; the largest takes its turn. Between steps the largest
    sub-network is active, so that evaluation and checkpoints see it. What is drawn depends on the seed and the step
    alone: a run resumed from a checkpoint draws what it would have drawn. Order the super-network first
    (`SuperNetwork.order_by_importance`), in a resumed process too.

        trainer = Trainer(supernet.model, arguments, train_dataset=..., callbacks=[SubnetworkSampler(supernet)])

    Args:
        supernet: its `model` is the trainer's.
        seed: of the draws.
    """

    def __init__(self, supernet: SuperNetwork, seed: int = 0) -> None:
        self.supernet, self.seed = supernet, seed
        self._micro_batch = 0

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Check that each process is to hold the whole network.

        Raises:
            ValueError: the Trainer, or accelerate, is to shard it.
        """
        if args.fsdp or shards_by_accelerate():
            raise ValueError(
                "the Trainer is to shard the network (FSDP), adapters too, and would leave no whole super-network to "
                "save or search; leave fsdp out, or use nas_engine.train(…, sharded=True), which shards the base."
            )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check that smaller sub-networks are made of what matters most."""
        if not self.supernet.ordered:
            warnings.warn(
                "the heads or channels of this super-network are in no order of importance; call "
                "supernet.order_by_importance(batches) before training, or small sub-networks start from chance.",
                NasEngineWarning,
                stacklevel=2,
            )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Activate the sub-network of a step's first micro-batch."""
        self._micro_batch = state.global_step * args.gradient_accumulation_steps
        self._activate()

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Activate that of the next one."""
        self._micro_batch += 1
        self._activate()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Activate the largest for whatever follows."""
        self.supernet.activate_genome(self.supernet.space.largest)

    def _activate(self) -> None:
        genomes = genomes_of_batch(self.supernet.space, "uniform", self.seed, self._micro_batch)
        self.supernet.activate_genome(genomes[0])
        if not self.supernet.trains:
            self.supernet.activate_genome(self.supernet.space.largest)
