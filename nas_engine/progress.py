"""One look for every long job: a bar with a count, the time left and the numbers that matter now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class ProgressBar:
    """A running bar; `advance` moves it by one and shows figures beside it."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, by: int = 1, **figures: float) -> None:
        """Move on, and show `figures` by name."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._progress.update(self._task, advance=by, figures=shown)


@contextmanager
def progress_bar(title: str, total: int, *, enabled: bool = True, completed: int = 0) -> Iterator[ProgressBar]:
    """A bar on standard error for `total` steps, of which `completed` are done already."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not enabled) as progress:
        yield ProgressBar(progress, progress.add_task(title, total=total, completed=completed, figures=""))
