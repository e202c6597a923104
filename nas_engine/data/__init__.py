"""Data as people have them: conversations, prompts and completions, plain texts, multiple choice; cut and counted."""

from nas_engine.data.loading import load_data
from nas_engine.data.report import DataReport
from nas_engine.data.splits import DataSplits

__all__ = ["DataReport", "DataSplits", "load_data"]
