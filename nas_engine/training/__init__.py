"""Super-network training: a sub-network sampled each step, loss on the answer tokens."""

from nas_engine.training.data import Example, TextPair
from nas_engine.training.sampler import SubnetworkSampler
from nas_engine.training.trainer import TrainingReport, train
from nas_engine.training.visits import Visits

__all__ = ["Example", "SubnetworkSampler", "TextPair", "TrainingReport", "Visits", "train"]
