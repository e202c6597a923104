"""One look for every long job: a bar with a count, the time left and the numbers that matter now."""

from __future__ import annotations

import time
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

_SECONDS_BETWEEN_LINES = 30.0


class ProgressBar:
    """A running bar; `advance` moves it by one and shows figures beside it.

    Where standard error is a file or a pipe, a plain line now and then takes the bar's place.
    """

    def __init__(self, progress: Progress, task: TaskID, plain: bool) -> None:
        self._progress, self._task, self._plain = progress, task, plain
        self._last_line = time.monotonic()

    def advance(self, by: int = 1, **figures: float) -> None:
        """Move on, and show `figures` by name."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._progress.update(self._task, advance=by, figures=shown)
        if self._plain and time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            task = self._progress.tasks[self._task]
            line = f"{task.description} {task.completed:.0f}/{task.total:.0f}  {shown}"
            self._progress.console.print(line, highlight=False)


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
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not enabled) as progress:
        task = progress.add_task(title, total=total, completed=completed, figures="")
        yield ProgressBar(progress, task, enabled and not console.is_interactive)


def say(message: str, *, enabled: bool = True) -> None:
    """Tell on standard error what a long job does next."""
    if enabled:
        Console(stderr=True).print(message, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def without_bars() -> Iterator[None]:
    """Transformers' own bars for local files, read and written in a second or two, stay away; downloads keep theirs."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
