"""What libraries say while a job runs: kept in a file of its run folder, off the terminal of whoever waits for it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas_engine.errors import NasEngineWarning
from nas_engine.progress import note, without_bars

MESSAGES = "messages.log"
_SPEAKING = ("transformers", "huggingface_hub", "optuna")  # which have handlers of their own
_FORM = "%(asctime)s %(name)s %(levelname)s: %(message)s"


@contextmanager
def libraries_in(file: Path | None) -> Iterator[None]:
    """Libraries draw no bars, and what they log and warn of goes to `file`, or nowhere.

    Warnings of this project's own are for the person, and are said.
    """
    handler = logging.NullHandler() if file is None else logging.FileHandler(file, delay=True, encoding="utf-8")
    handler.setFormatter(logging.Formatter(_FORM))
    with without_bars(), _handled(handler), warnings.catch_warnings():
        warnings.showwarning = _shown_to(handler)
        try:
            yield
        finally:
            handler.close()


@contextmanager
def _handled(handler: logging.Handler) -> Iterator[None]:
    """Loggers speak to `handler` alone; Python's last resort for those without one is standard error."""
    loggers = [logging.getLogger(name) for name in _SPEAKING]
    own = [list(logger.handlers) for logger in loggers]
    root = logging.getLogger()
    for logger in loggers:
        logger.handlers = [handler]
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        for logger, handlers in zip(loggers, own, strict=True):
            logger.handlers = handlers


def _shown_to(handler: logging.Handler) -> Any:
    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        if issubclass(category, NasEngineWarning):
            note(str(message))
        else:
            said = f"{filename}:{lineno}: {category.__name__}: {message}"
            handler.handle(logging.LogRecord("warnings", logging.WARNING, filename, lineno, said, None, None))

    return show
