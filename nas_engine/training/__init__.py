"""Training: a super-network whose sub-networks take turns, a teacher, and healing of a chosen sub-network."""

from nas_engine.training.answers import Distillation
from nas_engine.training.data import Example, TextPair
from nas_engine.training.healing import Healed, heal
from nas_engine.training.sampler import SubnetworkSampler
from nas_engine.training.teacher import Teacher
from nas_engine.training.trainer import TrainingReport, train
from nas_engine.training.visits import Visits

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
