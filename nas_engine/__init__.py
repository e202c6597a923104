"""Compress large language models: train a super-network once, search it, keep the sub-network you want."""

from nas_engine.compression.database_building import build_database
from nas_engine.data import DataReport, DataSplits, load_data
from nas_engine.data.tasks import TaskSplits, task_splits
from nas_engine.deploy import Export, export
from nas_engine.errors import NasEngineError
from nas_engine.execution.pool import WorkerPool
from nas_engine.execution.ray_executor import RayCluster
from nas_engine.jobs import heuristics
from nas_engine.jobs.recipes import SearchPlan, shears, sqft
from nas_engine.loop import SearchSettings, search
from nas_engine.results.comparison import Comparison, compare
from nas_engine.results.confirmation import ConfirmedFront
from nas_engine.results.result import SearchResult
from nas_engine.supernet import Subnetwork, SuperNetwork
from nas_engine.supernet.sensitivity import Sensitivity
from nas_engine.training import Distillation, Example, Healed, Teacher, TrainingReport, heal, train
from nas_engine.training.settings import HealingSettings, TrainingSettings

__all__ = [
    "Comparison",
    "ConfirmedFront",
    "DataReport",
    "DataSplits",
    "Distillation",
    "Example",
    "Export",
    "Healed",
    "HealingSettings",
    "NasEngineError",
    "RayCluster",
    "SearchPlan",
    "SearchResult",
    "SearchSettings",
    "Sensitivity",
    "Subnetwork",
    "SuperNetwork",
    "TaskSplits",
    "Teacher",
    "TrainingReport",
    "TrainingSettings",
    "WorkerPool",
    "build_database",
    "compare",
    "export",
    "heal",
    "heuristics",
    "load_data",
    "search",
    "shears",
    "sqft",
    "task_splits",
    "train",
]
