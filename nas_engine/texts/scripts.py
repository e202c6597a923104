"""In which scripts texts are written, by Unicode's names of their letters: a hint of their languages."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable

_LEAST = 0.001  # of the letters


def scripts_of(texts: Iterable[str]) -> dict[str, float]:
    """The share of letters by script, such as ``{"Latin": 0.97, "Cyrillic": 0.03}``, the largest first.

    Letters are named as Unicode names them: Chinese characters are ``CJK``, in whichever language. What has less than a
    thousandth of the letters is left out.
    """
    letters: Counter[str] = Counter()
    for text in texts:
        letters.update(text)
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        if letter.isalpha():
            scripts[_script(letter)] += count
    total = scripts.total()
    return {name: round(count / total, 4) for name, count in scripts.most_common() if count >= _LEAST * total}


def _script(letter: str) -> str:
    word = unicodedata.name(letter, "UNNAMED").split()[0]
    return word if word == "CJK" else word.capitalize()
