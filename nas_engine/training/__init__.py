"""Training: a super-network whose sub-networks take turns, a teacher, and healing of a chosen sub-network."""

from typing import TYPE_CHECKING, Any

from nas_engine.texts.examples import Example, TextPair
from nas_engine.training.answers import Distillation
from nas_engine.training.healing import Healed, heal
from nas_engine.training.teacher import Teacher
from nas_engine.training.trainer import TrainingReport, train
from nas_engine.training.visits import Visits

if TYPE_CHECKING:
    from nas_engine.training.sampler import SubnetworkSampler

__all__ = [
    "Distillation",
    "Example",
    "Healed",
    "SubnetworkSampler",
    "Teacher",
    "TextPair",
    "TrainingReport",
    "Visits",
    "heal",
    "train",
]


def __getattr__(name: str) -> Any:
    """`SubnetworkSampler`, once it is asked for: it imports Hugging Face's `Trainer` and PEFT, which takes seconds."""
    if name == "SubnetworkSampler":
        from nas_engine.training.sampler import SubnetworkSampler

        return SubnetworkSampler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
