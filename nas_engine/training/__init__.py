"""Super-network training: a sub-network sampled each step, loss on the answer tokens."""

from nas_engine.training.data import Example, TextPair
from nas_engine.training.trainer import TrainingReport, train

__all__ = ["Example", "TextPair", "TrainingReport", "train"]
