"""All that this package refuses, said to the person who asked for it: what was given, what is allowed, what to do."""

from search_spaces import NasEngineError

__all__ = [
    "CheckpointError",
    "CompressionError",
    "EstimateError",
    "ExportError",
    "FamilyError",
    "LedgerError",
    "ModelError",
    "NasEngineError",
    "NasEngineWarning",
    "PlacedError",
    "ReportError",
    "SearchError",
    "SelectionError",
    "SettingsError",
    "TaskError",
    "TimeLimitError",
]


class NasEngineWarning(UserWarning):
    """Something that the person should know, and that stops nothing."""


class PlacedError(NasEngineError, ValueError):
    """What is wrong may be one of the settings.

    Args:
        message: what is wrong, and what is allowed.
        place: of it among the settings, such as ``("space", 1, "mlp_width")``; empty where it is none of them.
    """

    def __init__(self, message: str, place: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.place = place


class ModelError(NasEngineError, ValueError):
    """A model cannot be loaded as it was named."""


class FamilyError(NasEngineError, ValueError):
    """A model belongs to no supported family."""


class TaskError(PlacedError):
    """A task is unknown, cannot be read, or is too small for the splits asked of it."""


class CompressionError(NasEngineError, ValueError):
    """A base cannot be made sparse or quantized as asked."""


class EstimateError(NasEngineError, ValueError):
    """A job needs more memory than there is."""


class CheckpointError(NasEngineError, ValueError):
    """A saved super-network or training checkpoint cannot be used here."""


class ExportError(NasEngineError, ValueError):
    """A sub-network cannot leave in the form that was asked for."""


class SearchError(PlacedError):
    """A search cannot run as asked."""


class LedgerError(NasEngineError, ValueError):
    """A ledger cannot be opened, read or continued."""


class SelectionError(NasEngineError, ValueError):
    """No sub-network of a result is what was asked for."""


class ReportError(NasEngineError, ValueError):
    """A page cannot be made or served."""


class TimeLimitError(NasEngineError):
    """What was asked took longer than it may."""


class SettingsError(PlacedError):
    """A setting is unknown, of another type or out of its range."""
