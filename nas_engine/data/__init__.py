"""Data as people have them: conversations, prompts and completions, texts, multiple choice, labels; cut and counted."""

from nas_engine.data.cutting import labels_of, source_of
from nas_engine.data.labels import Labels
from nas_engine.data.loading import load_data
from nas_engine.data.report import DataReport
from nas_engine.data.splits import DataSplits

__all__ = ["DataReport", "DataSplits", "Labels", "labels_of", "load_data", "source_of"]
