"""Files and folders that are there as a whole or not at all, whenever their writer is killed or the disk is full.

They are written beside their place, in a folder that nobody reads, and put there by one rename. Folders of writers that
were killed are known by their locks, which die with their process, and removed by whoever writes there next.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from search_spaces import NasEngineError

_UNFINISHED = ".unfinished-"
_AT_WORKING_DIRECTORY, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
# What an older save of other sizes would leave beside a new one, to be loaded instead of it.
_OUTDATED = re.compile(r"(model.*|grids)\.safetensors(\.index\.json)?")
_DESCRIPTIONS = ("config.json", "supernet.json")  # without which nothing loads


class WritingError(NasEngineError, ValueError):
    """A file or folder cannot be written; what was there is as it was."""


@contextmanager
def replacing(target: str | Path) -> Iterator[Path]:
    """A path to write a file or a folder to, which becomes `target` at once at the end; until then the old one stays.

    Of a folder in which there are other files too, those stay, and the new ones are put between them one by one.

    Raises:
        WritingError: it cannot be written, such as on a full disk.
    """
    given, target = target, Path(target).resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A mounted volume cannot be renamed.
        inside = target.is_dir() and (os.path.ismount(target) or not os.access(target.parent, os.W_OK))
        with temporary_folder(_UNFINISHED, target if inside else target.parent) as unfinished:
            written = unfinished / target.name
            yield written
            _synchronize(written)
            if written.is_dir() and target.is_dir():
                _replace_folder(written, target)
            else:
                os.replace(written, target)
    except WritingError:
        raise
    except Exception as error:
        # tokenizers raises what it meets as a bare Exception.
        if not isinstance(error, OSError | SafetensorError) and "(os error " not in str(error):
            raise
        raise WritingError(
            f"{given} cannot be written: {error}. What was there before was left as it is; make room, or choose "
            "another folder."
        ) from error


def remove_unfinished(folder: str | Path) -> None:
    """Remove what killed writers have left in `folder`, where nothing may be left to write that would."""
    _remove_left_over(_UNFINISHED, Path(folder))


@contextmanager
def temporary_folder(prefix: str, parent: str | Path | None = None) -> Iterator[Path]:
    """A new folder that is gone at the end, and those of the same prefix whose processes were killed before.

    Args:
        prefix: of its name.
        parent: where it is made; None is the system's folder for temporary files.

    Raises:
        WritingError: `parent` cannot be written.
    """
    try:
        parent = Path(parent or tempfile.gettempdir())
        _remove_left_over(prefix, parent)
        folder, lock = _new_folder(prefix, parent)
    except OSError as error:
        raise WritingError(
            f"no folder can be made in {parent or 'the folder for temporary files'}: {error}. Make room, or choose "
            "another folder (the environment variable TMPDIR for temporary files)."
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_left_over(prefix: str, parent: Path) -> None:
    for left in parent.glob(f"{prefix}*"):
        lock = _locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if lock is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)


def _new_folder(prefix: str, parent: Path) -> tuple[Path, int | None]:
    """A folder and a descriptor that holds its lock; None on a file system that knows no locks."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = _locked(folder, fcntl.LOCK_SH)
        if folder.is_dir():
            return folder, lock
        if lock is not None:  # another process took it for one left over, before it was locked
            os.close(lock)


def _locked(folder: Path, operation: int) -> int | None:
    """A descriptor that holds a lock of `folder`; None where it is no folder, is locked, or cannot be."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, operation)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _synchronize(written: Path) -> None:
    """On disk, so that a power cut leaves no name without its content."""
    for file in written.rglob("*") if written.is_dir() else (written,):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def _replace_folder(written: Path, target: Path) -> None:
    others = {entry.name for entry in target.iterdir()} - {entry.name for entry in written.iterdir()}
    outdated = {name for name in others if _OUTDATED.fullmatch(name)}
    if others == outdated and _exchanged(written, target):
        return
    files = sorted(path.relative_to(written) for path in written.rglob("*") if path.is_file())
    for file in sorted(files, key=lambda path: path.name in _DESCRIPTIONS):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(written / file, target / file)
    for name in outdated:
        (target / name).unlink()


def _exchanged(one: Path, other: Path) -> bool:
    """Whether two folders of one file system could be exchanged in one step; not every system can."""
    with suppress(AttributeError):
        rename = ctypes.CDLL(None).renameat2
        return not rename(_AT_WORKING_DIRECTORY, bytes(one), _AT_WORKING_DIRECTORY, bytes(other), _EXCHANGE)
    return False
