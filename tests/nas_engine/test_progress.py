"""What a person sees of a long job: one line on a terminal, plain lines in a log; other programs' words elsewhere."""

import io
import logging
import sys
import warnings
from pathlib import Path

from rich.progress import Progress

from nas_engine import progress
from nas_engine.errors import NasEngineWarning
from nas_engine.libraries import libraries_in
from nas_engine.progress import best_so_far, job_line, note, progress_bar, say


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch) -> Terminal:
    """Standard error; pytest has its own again between a fixture and its test."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(sys, "stderr", Terminal())
    return sys.stderr


def job() -> None:
    with job_line():
        say("Loading a model")
        note("train: 40 rows read")
        with progress_bar("Searching", 8) as bar:
            for _ in range(8):
                bar.advance(front=2)
            say("Something between")
            bar.advance(0, front=2)
            bar.best(accuracy=0.61, latency=12.5)
        with progress_bar("Healing", 4) as bar:
            bar.advance(loss=1.5)
        best_so_far(accuracy=0.7)
        say("Confirming")


def screen(written: str) -> list[str]:
    """What is left to be seen: carriage returns, lines erased and the cursor moved up."""
    lines, at, column = [""], 0, 0
    i = 0
    while i < len(written):
        if written[i] == "\x1b":
            end = next(j for j in range(i + 2, len(written)) if written[j].isalpha())
            code = written[i + 2 : end + 1]
            if code == "2K":
                lines[at] = ""
            elif code.endswith("A"):
                at -= int(code[:-1] or 1)
            i = end
        elif written[i] == "\n":
            at, column = at + 1, 0
            lines += [""] * (at >= len(lines))
        elif written[i] == "\r":
            column = 0
        else:
            lines[at] = lines[at][:column].ljust(column) + written[i] + lines[at][column + 1 :]
            column += 1
        i += 1
    return [line.rstrip() for line in lines if line.strip()]


def test_on_a_terminal_a_job_is_one_line_and_leaves_its_notes(monkeypatch) -> None:
    terminal, seen = on_terminal(monkeypatch), []
    updated = Progress.update

    def update(self, *args, **kwargs) -> None:
        updated(self, *args, **kwargs, refresh=True)  # and not a tenth of a second later
        seen.append(screen(terminal.getvalue()))

    monkeypatch.setattr(Progress, "update", update)
    job()
    assert screen(terminal.getvalue()) == ["train: 40 rows read"]
    assert all(len(lines) <= 2 for lines in seen)
    shown = [lines[-1] for lines in seen if lines]
    assert any("Searching" in line and "8/8" in line and "front 2" in line for line in shown)
    between = next(i for i, line in enumerate(shown) if "Something between" in line)
    assert any("Searching" in line and "8/8" in line for line in shown[between:])
    assert any("Healing" in line and "loss 1.5" in line and "best accuracy 0.61 latency 12.5" in line for line in shown)
    assert any("Confirming" in line and "best accuracy 0.7" in line for line in shown)


def test_in_a_log_there_are_plain_lines(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    job()
    lines = sys.stderr.getvalue().splitlines()
    assert lines[:2] == ["Loading a model", "train: 40 rows read"]
    assert lines[2].startswith("Searching 1/8, 0:00:00 left, front 2")
    assert "Searching 8/8, in 0:00:00, front 2, best accuracy 0.61 latency 12.5" in lines
    assert "Something between" in lines
    assert lines[-2:] == ["Healing 1/4, in 0:00:00, loss 1.5", "Confirming"]
    assert "\x1b" not in sys.stderr.getvalue()


def test_nothing_is_shown_where_nothing_is_wanted(monkeypatch) -> None:
    terminal = on_terminal(monkeypatch)
    with job_line(enabled=False), progress_bar("Searching", 2, enabled=False) as bar:
        bar.advance()
        say("Loading", enabled=False)
        note("read", enabled=False)
    assert terminal.getvalue() == ""


def test_warnings_of_ours_are_said_and_those_of_libraries_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    before = list(logging.getLogger("transformers").handlers), list(logging.getLogger().handlers)
    with libraries_in(tmp_path / "messages.log"):
        warnings.simplefilter("always")
        warnings.warn("the space is narrower", NasEngineWarning, stacklevel=1)
        warnings.warn("theirs", stacklevel=1)
        logging.getLogger("transformers.trainer").warning("theirs too")
    assert sys.stderr.getvalue() == "the space is narrower\n"
    kept = (tmp_path / "messages.log").read_text()
    assert "UserWarning: theirs\n" in kept
    assert "theirs too" in kept
    assert (list(logging.getLogger("transformers").handlers), list(logging.getLogger().handlers)) == before
    with libraries_in(tmp_path / "none.log"):
        pass
    assert not (tmp_path / "none.log").exists()
