"""Runtimes in processes of their own: one may abort, and its threads stay its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_engine.errors import ExportError


def answered(script: Path, given: Mapping[str, Any], runtime: str) -> list[Any]:
    """What `script` answers to the JSON object `given`: it reads that from standard input, and writes a list to the
    path in its only argument.

    Raises:
        ExportError: it fails; the end of what it said is given.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        done = subprocess.run(
            [sys.executable, str(script), str(answer)],
            input=json.dumps(given), capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        if done.returncode or not answer.exists():
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            telling = [line for line in lines if "error" in line.lower()] or lines
            said = " ".join(telling[-3:]) or f"it ended with {done.returncode}"
            raise ExportError(f"{runtime} does not run {', '.join(given['files'])}: {said}")
        found: list[Any] = json.loads(answer.read_text(encoding="utf-8"))
    return found
