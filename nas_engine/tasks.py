"""Questions by name, by the names that they had before `nas_engine.data`."""

from nas_engine.data.made import chain_sum, family
from nas_engine.data.tasks import TaskSplits, questions_from_rows, task_splits

__all__ = ["TaskSplits", "chain_sum", "family", "questions_from_rows", "task_splits"]
