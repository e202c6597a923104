"""What `benchmarks.fuzz` needs: files made wrong in every way, and what a reader makes of them."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import evaluators
import nas_engine
import search_spaces

_SECONDS = 10.0  # of a processor, for one input
_OURS = tuple(str(Path(package.__file__).parent) for package in (evaluators, nas_engine, search_spaces))
_STRANGE: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, -(2**63), 10**30, 0.5, -0.0, 1e308, float("inf"), float("nan")),
    *("", " ", "x", "\x00", "\ud800", "é" * 300, "layers.0.up", "layers.-1.up", "../..", "32", "NaN", [], {}, [[]]),
    *([None], [0, 0], {"": 0}, [[[[[[[[]]]]]]]]),
]
_STRANGE_BYTES = [
    *(b"", b"\n", b"null", b"[]", b"{}", b"0", b'""', b"\xef\xbb\xbf", b"\xff\xfe\x00", b"\x00" * 64, b"\xc3\x28"),
    *(b"[" * 100_000, b'{"a":' * 20_000, b"9" * 5000, b'"\\ud800"', b"1e999", b"-", b"NaN", b"Infinity"),
]


class Hang(BaseException):
    """An input took too long; no `except Exception` catches it."""


@contextmanager
def limited(seconds: float = _SECONDS) -> Iterator[None]:
    """Raise `Hang` where what is done inside takes more of the processor."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def fault(read: Callable[[], object]) -> str | None:
    """What is wrong with how `read` took its input; None where it accepted it or refused it with an error of ours."""
    try:
        with limited():
            read()
    except Hang:
        return "hang"
    except Exception as error:
        return None if is_ours(error) else "".join(traceback.format_exception(error)[-6:])
    return None


def is_ours(error: BaseException) -> bool:
    """Whether it is a sentence of this project: of a type of its own, or a ValueError that its code raises."""
    if not isinstance(error, ValueError | evaluators.BusyError) or len(str(error)) < 10:
        return False
    if type(error) is ValueError:
        return traceback.extract_tb(error.__traceback__)[-1].filename.startswith(_OURS)
    return type(error).__module__.partition(".")[0] in ("evaluators", "nas_engine", "search_spaces")


def digest(place: Path) -> str:
    """Of a file, or of all files below a folder."""
    found = hashlib.sha256()
    for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
        found.update(f"{file.relative_to(place.parent)} {file.is_symlink()}\0".encode())
        if file.is_file():
            found.update(file.read_bytes() + b"\0")
    return found.hexdigest()


def strange(data: Any, source: random.Random) -> Any:
    """JSON data with something in it that should not be there, or without something that should."""
    data = json.loads(json.dumps(data))
    holder, key = _somewhere(data, source)
    if holder is None:
        return source.choice(_STRANGE)
    what = source.randrange(6)
    if what == 0 and isinstance(holder, dict):
        del holder[key]
    elif what == 1 and isinstance(holder, dict):
        holder[f"{key}_"] = holder.pop(key)
    elif what == 1:
        holder.insert(key, holder[key])
    elif what == 2 and isinstance(holder, list):
        source.shuffle(holder)
    elif what == 3 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] = source.choice(
            [-holder[key], holder[key] + 1, holder[key] * 2, float(holder[key]), str(holder[key])]
        )
    else:
        holder[key] = source.choice(_STRANGE)
    return data


def _somewhere(data: Any, source: random.Random) -> tuple[Any, Any]:
    """A list or object in `data` and one of its keys; at any depth alike."""
    holder, key = None, None
    while isinstance(data, dict | list) and data and (holder is None or source.random() < 0.75):
        holder, key = data, source.choice(list(data)) if isinstance(data, dict) else source.randrange(len(data))
        data = data[key]
    return holder, key


def strange_bytes(content: bytes, source: random.Random) -> bytes:
    """Content that was cut, overwritten, or put something into."""
    what, at = source.randrange(6), source.randrange(len(content) + 1)
    if what == 0:
        return content[:at]
    if what == 1:
        return content[:at] + content[at + source.randint(1, 20) :]
    if what == 2:
        return content[:at] + source.randbytes(source.randint(1, 8)) + content[at:]
    if what == 3 and content:
        at = min(at, len(content) - 1)
        return content[:at] + bytes([content[at] ^ (1 << source.randrange(8))]) + content[at + 1 :]
    if what == 4:
        return source.choice(_STRANGE_BYTES)
    return content[:at] + source.choice(_STRANGE_BYTES) + content[at:]


def spoil(file: Path, source: random.Random) -> None:
    """Make a file wrong as what it is: JSON, lines of JSON, safetensors, or bytes."""
    content = file.read_bytes()
    if source.random() < 0.4:
        file.write_bytes(strange_bytes(content, source))
    elif file.suffix == ".json":
        file.write_text(json.dumps(strange(json.loads(content), source)), encoding="utf-8")
    elif file.suffix in (".jsonl", ".log"):
        lines = content.decode().splitlines()
        at = source.randrange(len(lines))
        what = source.randrange(5)
        if what == 0:
            del lines[at]
        elif what == 1:
            lines.insert(source.randrange(len(lines)), lines[at])
        else:
            lines[at] = json.dumps(strange(json.loads(lines[at]), source))
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    elif file.suffix == ".safetensors":
        _spoil_tensors(file, source)
    else:
        file.write_bytes(strange_bytes(content, source))


def spoil_folder(folder: Path, source: random.Random) -> None:
    """Make a folder wrong: a file of it is spoiled, gone, a folder, a broken link, or another one's content."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix != ".lock"]
    file, what = source.choice(files), source.randrange(8)
    if what == 0:
        file.unlink()
    elif what == 1:
        file.unlink()
        file.mkdir()
    elif what == 2:
        file.unlink()
        file.symlink_to("nowhere")
    elif what == 3:
        shutil.copy(source.choice(files), folder / "copy")
        (folder / "copy").replace(file)
    else:
        spoil(file, source)


def _spoil_tensors(file: Path, source: random.Random) -> None:
    try:
        with safe_open(file, framework="pt") as opened:
            about = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return
    name, what = source.choice(sorted(tensors)), source.randrange(9)
    tensor = tensors[name]
    if what == 0:
        del tensors[name]
    elif what == 1:
        tensors[f"{name}.x"] = tensors.pop(name)
    elif what == 2:
        tensors[name] = tensor.flatten()[:-1].clone()
    elif what == 3:
        tensors[name] = tensor[None].clone()
    elif what == 4:
        tensors[name] = tensor.to(source.choice([torch.int8, torch.float16, torch.float64, torch.bool]))
    elif what == 5:
        tensors[name] = torch.full_like(tensor, source.choice([-1, 0, 100]))
    elif what == 6:
        tensors[name] = tensor.new_zeros(0)
    elif about:
        key = source.choice(sorted(about))
        with suppress(ValueError):
            about[key] = json.dumps(strange(json.loads(about[key]), source))
    save_file(tensors, file, metadata=about)
