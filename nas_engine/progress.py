"""One look for every long job: on a terminal one line with the stage, its count, the time left and the best so far; in
a file or a pipe plain lines.

`job_line` holds that line for a whole job. A bar outside of one, as `nas_engine.train` shows it, is a line of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 30.0


class _Line:
    """The line of a terminal."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TextColumn("{task.fields[best]}", markup=False),
        )
        self.progress = Progress(*columns, console=console, transient=True)
        self._task: TaskID | None = None
        self._best = ""
        self.title = ""  # of the stage that is shown

    def begin(self, title: str, total: int | None = None, completed: int = 0) -> None:
        """Another stage; one without a total takes as long as it takes."""
        if self._task is not None:
            self.progress.remove_task(self._task)
        self.title = title
        self._task = self.progress.add_task(
            title, total=total, completed=completed, count="", figures="", best=self._best
        )
        self.count(0)

    def count(self, by: int, figures: str = "") -> None:
        """Move the stage on."""
        if self._task is not None:
            self.progress.update(self._task, advance=by, figures=figures)
            task = self.progress.tasks[-1]
            self.progress.update(
                self._task, count="" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}"
            )

    def best(self, shown: str) -> None:
        """Show from now on what is best so far."""
        self._best = shown
        if self._task is not None:
            self.progress.update(self._task, best=shown)


_line: _Line | None = None  # of the job that runs


class ProgressBar:
    """A running count; `advance` moves it by one and shows figures beside it.

    Args:
        title: of the stage.
        total: steps.
        completed: that are done already.
        line: of the terminal; None writes a plain line now and then.
        enabled: else nothing is shown.
    """

    def __init__(self, title: str, total: int, completed: int, line: _Line | None, enabled: bool) -> None:
        self._title, self._total, self._done, self._begun_at = title, total, completed, completed
        self._terminal, self._enabled = line, enabled
        self._started = self._last_line = time.monotonic()
        self._figures = self._best = ""

    def advance(self, by: int = 1, **figures: float) -> None:
        """Move on, and show `figures` by name."""
        self._done += by
        self._figures = _shown(figures)
        if self._terminal is not None:
            if self._terminal.title != self._title:  # another stage was shown meanwhile
                self._terminal.begin(self._title, self._total, self._done - by)
            self._terminal.count(by, self._figures)
        elif self._enabled and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            _print(Console(stderr=True), self._plain(self._left()))

    def best(self, **figures: float) -> None:
        """Show `figures` as the best so far, until others are, or the job ends."""
        self._best = f"best {_shown(figures)}" if figures else ""
        if self._terminal is not None:
            self._terminal.best(self._best)

    def close(self) -> None:
        """In a log, tell how it ended."""
        if self._terminal is None and self._enabled and self._done > self._begun_at:
            _print(Console(stderr=True), self._plain(f"in {_clock(time.monotonic() - self._started)}"))

    def _left(self) -> str:
        done = self._done - self._begun_at
        seconds = (time.monotonic() - self._started) / done * (self._total - self._done) if done else 0.0
        return f"{_clock(seconds)} left"

    def _plain(self, when: str) -> str:
        parts = (f"{self._title} {self._done}/{self._total}", when, self._figures, self._best)
        return ", ".join(part for part in parts if part)


@contextmanager
def job_line(*, enabled: bool = True) -> Iterator[None]:
    """On a terminal, all that a job shows is one line, but for what it has to `note`."""
    global _line
    console = Console(stderr=True)
    if not enabled or not console.is_interactive or _line is not None:
        yield
        return
    line = _Line(console)
    with line.progress:
        _line = line
        try:
            yield
        finally:
            _line = None


@contextmanager
def progress_bar(title: str, total: int, *, enabled: bool = True, completed: int = 0) -> Iterator[ProgressBar]:
    """A bar on standard error for `total` steps, of which `completed` are done already."""
    console = Console(stderr=True)
    if not enabled or not console.is_interactive:
        bar = ProgressBar(title, total, completed, None, enabled)
        yield bar
        bar.close()
    elif _line is not None:
        _line.begin(title, total, completed)
        yield ProgressBar(title, total, completed, _line, enabled)
    else:
        line = _Line(console)
        line.progress.live.transient = False
        with line.progress:
            line.begin(title, total, completed)
            yield ProgressBar(title, total, completed, line, enabled)


def say(message: str, *, enabled: bool = True) -> None:
    """Tell on standard error what a long job does next; on a terminal, in its line."""
    if enabled and _line is not None:
        _line.begin(message)
    elif enabled:
        _print(Console(stderr=True), message)


def note(message: str, *, enabled: bool = True) -> None:
    """Tell something on standard error that is to stay there."""
    if enabled:
        _print(Console(stderr=True) if _line is None else _line.progress.console, message)


def best_so_far(**figures: float) -> None:
    """Show `figures` in the job's line until it ends."""
    if _line is not None:
        _line.best(f"best {_shown(figures)}")


def _print(console: Console, message: str) -> None:
    console.print(message, highlight=False, markup=False, soft_wrap=True)


def _shown(figures: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


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
