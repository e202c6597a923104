"""First sentences of docstrings of numpy, pandas, scipy and torch (all BSD-3-Clause), each with its library's name."""

import builtins
import inspect
import random
import re
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from typing import Any

LIBRARIES = {
    "numpy": ("numpy", "numpy.linalg", "numpy.random", "numpy.fft", "numpy.polynomial.polynomial", "numpy.ma"),
    "pandas": ("pandas", "pandas.api.types"),
    "scipy": tuple(
        f"scipy.{name}" for name in ("signal", "stats", "sparse", "optimize", "interpolate", "linalg", "ndimage")
    ),
    "torch": ("torch", "torch.nn", "torch.nn.functional", "torch.optim", "torch.distributions", "torch.utils.data"),
}
_SENTENCE = re.compile(r"[A-Z][^.`(:>]{25,150}\.(?=\s|$)")
_TELLING = (*LIBRARIES, "dataframe", "series", "tensor", "ndarray")  # words that give the answer away


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """`count` sentences of each library with its name, in random order; none that two libraries share."""
    found = {library: set(_of(modules)) for library, modules in LIBRARIES.items()}
    inherited = set(_of(("builtins",)))
    libraries = Counter(sentence for of_library in found.values() for sentence in of_library)
    rng, rows = random.Random(seed), []
    for library, of_library in found.items():
        own = sorted(s for s in of_library - inherited if libraries[s] == 1)
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
