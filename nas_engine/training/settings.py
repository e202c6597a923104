"""How long, how fast and on what: settings of training and of healing, checked when they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from nas_engine.training.answers import Distillation
from nas_engine.training.strategies import STRATEGIES, Strategy

Adapters = Literal["fresh", "continued"]


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """Steps of AdamW on answers; the learning rate rises linearly over the warm-up and falls to zero as a cosine.

    Args:
        steps: of the optimizer.
        batch_size: examples of a micro-batch.
        learning_rate: at its peak.
        accumulation: micro-batches of a step.
        warmup: fraction of the steps.
        weight_decay: of AdamW.
        max_gradient_norm: gradients are scaled down to this norm.
        max_tokens: longest example allowed.
        distillation: how much of a teacher's distribution is learned, where there is a teacher.
        seed: of batches, and of all else that is random.

    Raises:
        ValueError: one of them is out of its range.
    """

    steps: int = 200
    batch_size: int = 16
    learning_rate: float = 3e-4
    accumulation: int = 1
    warmup: float = 0.1
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    max_tokens: int = 1024
    distillation: Distillation = Distillation()  # noqa: RUF009  # frozen
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0.")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup is {self.warmup}; give the fraction of the steps, from 0 to 1.")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; give at least 0.")

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up from zero, then a cosine to zero."""
        warmup_steps = math.ceil(self.warmup * self.steps)
        if step < warmup_steps:
            return self.learning_rate * (step + 1) / warmup_steps
        done = (step - warmup_steps) / max(1, self.steps - warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(StepSettings):
    """Steps in which sub-networks take turns; see `nas_engine.train`.

    Args:
        strategy: ``"uniform"``, one random sub-network a micro-batch; ``"sandwich"``, the largest, the smallest and two
            random ones; ``"cycle"``, one of the largest, the smallest and a random one, in turns; or ``"largest"``,
            which is plain LoRA on the whole model.
        distill: with the sandwich rule, the largest sub-network's predictions are what the others learn (in-place
            distillation: Yu and Huang, 2019, arXiv 1903.05134, section 3.3).
        refit: fit narrower widths to what they leave out, where channels are ordered first and, on the trained network,
            once more at the end; see `SuperNetwork.refit`.
    """

    strategy: Strategy = "uniform"
    distill: bool = False
    refit: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy is {self.strategy!r}; choose one of {', '.join(STRATEGIES)}.")
        if self.distill and self.strategy != "sandwich":
            raise ValueError('distill needs strategy="sandwich", whose largest sub-network teaches the others.')


@dataclass(frozen=True, kw_only=True)
class HealingSettings(StepSettings):
    """Steps of one chosen sub-network alone; see `nas_engine.heal`.

    Args:
        adapters: ``"fresh"``, new ones of the largest rank on the merged weights; or ``"continued"``, the
            super-network's, which a plain adapter beside a sparse or quantized base needs.
        fit_tokens: so many tokens of the first examples fit each layer to the teacher's residual stream before the
            first step (see `nas_engine.training.fitting`), where there is a teacher, the base is neither sparse nor
            quantized, and no norm follows a block; 0 leaves weights as the super-network gave them.
    """

    steps: int = 48
    learning_rate: float = 7e-4
    adapters: Adapters = "fresh"
    fit_tokens: int = 8192

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adapters not in get_args(Adapters):
            raise ValueError(f"adapters is {self.adapters!r}; choose one of {', '.join(get_args(Adapters))}.")
        if self.fit_tokens < 0:
            raise ValueError(f"fit_tokens is {self.fit_tokens}; give a number of tokens, or 0.")
