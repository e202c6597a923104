"""JSONL files: one JSON value a line, read so that an error can name the line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evaluators.documents import decoded, why_unreadable


def decoded_lines(path: str | Path, error: type[ValueError], what: str) -> Iterator[tuple[str, str, Any]]:
    """Where each line of a file is, the line, and its JSON value; blank lines are passed over.

    Args:
        error: what is raised.
        what: a line holds, such as ``question``.

    Raises:
        ValueError: of the type `error`: the file is missing, holds no line, or one is not JSON (it is named).
    """
    try:
        # A file of Windows may begin with a byte order mark; and only a line feed ends a line, for texts may hold
        # the other separators that str.splitlines() knows.
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as failed:
        raise error(f"{path} cannot be read: {why_unreadable(failed)}.") from failed
    numbered = [(i, line) for i, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise error(f"{path} holds no {what}; give one JSON object a line.")
    for i, line in numbered:
        where = f"{path}, line {i}"
        yield where, line, decoded(line, error, where)
