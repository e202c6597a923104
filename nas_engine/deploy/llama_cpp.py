"""llama.cpp, out of the package xllamacpp, run in a subprocess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nas_engine.deploy.agreement import LIKELIEST, Position
from nas_engine.deploy.processes import answered
from nas_engine.errors import ExportError

_PROCESS = Path(__file__).with_name("llama_cpp_process.py")
_DECODED = 16  # tokens of which the mean time is taken
_TOKEN = 1  # of prompts that are timed; which one makes no difference
_INSTALL = "install it with: pip install 'nas-engine[llamacpp]'"


def require_llama_cpp() -> None:
    """Check that llama.cpp is there.

    Raises:
        ExportError: it is not.
    """
    if find_spec("xllamacpp") is None:
        raise ExportError(f"the package xllamacpp, which holds llama.cpp, is not installed; {_INSTALL}.")


def read_and_continued(
    file: Path, texts: Sequence[str], prompts: Sequence[Sequence[int]], new_tokens: int, top: int = LIKELIEST
) -> tuple[list[list[int]], list[list[Position]]]:
    """How llama.cpp reads each text, and the likeliest continuation of every prompt, as exactly as it computes.

    Raises:
        ExportError: as `run`.
    """
    read = [{"call": "tokens", "text": text} for text in texts]
    continued = [{"call": "greedy", "prompt": list(p), "new_tokens": new_tokens, "top": top} for p in prompts]
    longest = max(map(len, prompts)) + new_tokens
    calls = [{"file": 0} | call for call in read + continued]
    answers = run([file], calls, context=longest + 8, exact=True)
    paths = [[Position.of(at) for at in answer] for answer in answers[len(read) :]]
    return answers[: len(read)], paths


def time_files(
    files: Sequence[Path], prompt_tokens: int, decode: bool, repeats: int, warmup: int, threads: int
) -> list[list[float]]:
    """Seconds of reading a prompt, or with `decode` of each token behind it, of every file, taken in turns.

    Raises:
        ExportError: as `run`.
    """
    new_tokens = _DECODED + 1 if decode else 1
    prompt = [_TOKEN] * prompt_tokens
    call = {"call": "timed", "prompt": prompt, "new_tokens": new_tokens}
    rounds = [{"file": number} | call for _ in range(warmup + repeats) for number in range(len(files))]
    answers = run(files, rounds, context=prompt_tokens + new_tokens + 8, threads=threads)
    # The first new token comes with the prompt.
    times = [said["predicted_ms"] / _DECODED if decode else said["prompt_ms"] for said in answers]
    kept = times[warmup * len(files) :]
    return [[milliseconds / 1e3 for milliseconds in kept[number :: len(files)]] for number in range(len(files))]


def run(
    files: Sequence[Path], calls: Sequence[Mapping[str, Any]], context: int, threads: int = 1, exact: bool = False
) -> list[Any]:
    """What llama.cpp answers to each call of `llama_cpp_process.LlamaServer`'s methods.

    Args:
        files: GGUF, all loaded at once.
        calls: `file`, which of them, and `call`, the method's name, beside its arguments.
        context: tokens that fit.
        threads: of the processor.
        exact: keys and values are cached in fp32, and attention is computed plainly.

    Raises:
        ExportError: llama.cpp is missing, does not load the file, or fails; the end of what it said is given.
    """
    require_llama_cpp()
    given = {"files": [str(file) for file in files], "threads": threads, "context": context, "exact": exact,
             "calls": list(calls)}  # fmt: skip
    return answered(_PROCESS, given, "llama.cpp")
