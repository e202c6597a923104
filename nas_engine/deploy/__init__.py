"""The ways out: compressed models as the files of the runtimes where they are deployed."""

from nas_engine.deploy.exported import Export, Weights
from nas_engine.deploy.formats import FORMATS, export, export_folder, lines_of
from nas_engine.deploy.targets import TARGETS, Target

__all__ = ["FORMATS", "TARGETS", "Export", "Target", "Weights", "export", "export_folder", "lines_of"]
