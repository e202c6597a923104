"""Texts with labels, made on the spot: of which installed library's documentation is a sentence?

First sentences of the docstrings of numpy, pandas, scipy and torch, as they are installed.
"""

from __future__ import annotations

import builtins
import inspect
import random
import re
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from nas_engine.errors import TaskError

DOCSTRINGS = "docstrings"
_EACH = 250  # sentences of each library, all that pandas has and some of the others'
_LIBRARIES = {
    "numpy": ("numpy", "numpy.linalg", "numpy.random", "numpy.fft", "numpy.polynomial.polynomial", "numpy.ma"),
    "pandas": ("pandas", "pandas.api.types"),
    "scipy": tuple(
        f"scipy.{name}" for name in ("signal", "stats", "sparse", "optimize", "interpolate", "linalg", "ndimage")
    ),
    "torch": ("torch", "torch.nn", "torch.nn.functional", "torch.optim", "torch.distributions", "torch.utils.data"),
}
_SENTENCE = re.compile(r"[A-Z][^.`(:>]{25,150}\.(?=\s|$)")
_TELLING = (*_LIBRARIES, "dataframe", "series", "tensor", "ndarray")  # words that give the answer away


def docstrings(count: int = _EACH, seed: int = 3) -> list[tuple[str, str]]:
    """`count` sentences of each library with its name, in random order; none that two libraries share.

    Raises:
        TaskError: an installed library has fewer of them.
    """
    found = {library: set(_of(modules)) for library, modules in _LIBRARIES.items()}
    inherited = set(_of(("builtins",)))
    libraries = Counter(sentence for of_library in found.values() for sentence in of_library)
    rng, rows = random.Random(seed), []
    for library, of_library in found.items():
        own = sorted(s for s in of_library - inherited if libraries[s] == 1)
        if len(own) < count:
            raise TaskError(f"the installed {library} has {len(own)} sentences of its own; {count} were asked for.")
        rows += [(sentence, library) for sentence in rng.sample(own, count)]
    rng.shuffle(rows)
    return rows


def _of(modules: tuple[str, ...]) -> Iterator[str]:
    for name in modules:
        module = import_module(name) if name != "builtins" else builtins
        for thing in (getattr(module, name) for name in dir(module) if not name.startswith("_")):
            members = [n for n in dir(thing) if not n.startswith("_")] if inspect.isclass(thing) else []
            for member in (thing, *(inspect.getattr_static(thing, n) for n in members)):
                if sentence := _first(member):
                    yield sentence


def _first(thing: Any) -> str | None:
    if not callable(thing) and not isinstance(thing, property):
        return None
    paragraph = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    match = _SENTENCE.match(paragraph)
    told = match is None or any(word in match[0].lower() for word in _TELLING)
    return None if match is None or told else match[0]
