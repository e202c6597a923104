"""Compress large language models: train a super-network once, search it, keep the sub-network you want."""

from nas_engine.deploy import Export, export
from nas_engine.execution.pool import WorkerPool
from nas_engine.execution.ray_executor import RayCluster
from nas_engine.loop import search
from nas_engine.results.comparison import Comparison, compare
from nas_engine.results.confirmation import ConfirmedFront
from nas_engine.results.result import SearchResult
from nas_engine.supernet import Subnetwork, SuperNetwork
from nas_engine.training import Distillation, Example, Healed, Teacher, TrainingReport, heal, train

__all__ = [
    "Comparison",
    "ConfirmedFront",
    "Distillation",
    "Example",
    "Export",
    "Healed",
    "RayCluster",
    "SearchResult",
    "Subnetwork",
    "SuperNetwork",
    "Teacher",
    "TrainingReport",
    "WorkerPool",
    "compare",
    "export",
    "heal",
    "search",
    "train",
]
