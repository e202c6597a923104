"""Finding an answer in generated text, and telling whether two answers are the same. Pure functions of texts."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal

_INTEGER = r"\d{1,3}(?:,\d{2,3})*,\d{3}(?![\d,])|\d+"  # commas part thousands, and lakhs
_DECIMAL = rf"(?:{_INTEGER})(?:\.\d+)?(?:[eE][+-]?\d{{1,3}}(?!\w))?|(?<![\w.])\.\d+"
NUMBER = rf"((?:(?<![\w)])-)?\$?(?:(?<![\d/])\d+/\d+(?![\d/])|{_DECIMAL}))"
"""Numbers as solutions write them: ``-3``, ``1,234``, ``$5.50``, ``.5``, ``1e5``, ``1/2``.

In ``5-3`` and ``3-4 days`` the hyphen is no sign; dates are no fractions, lists with commas no thousands.
"""
Take = Literal["first", "last"]
_MINUS = str.maketrans(dict.fromkeys("\u2212\u2013\ufe63\uff0d", "-"))  # what typesetting and other keyboards write
_PLAIN_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?|\d+/0*[1-9]\d*)")
_THOUSANDS = re.compile(r"(?<=\d),(?=(?:\d{2,3},)*\d{3}(?!\d))")
_LONGEST = 4000  # characters; Python converts no integer of more than 4,300 digits


def compiled(pattern: str) -> re.Pattern[str]:
    """`pattern` as a regular expression whose groups capture an answer.

    Raises:
        ValueError: it is none, or it has no group.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern is {pattern!r}, which is no regular expression: {error}.") from error
    if not expression.groups:
        raise ValueError(f"pattern is {pattern!r}; put the answer into a group, such as {NUMBER!r}.")
    return expression


def extracted(text: str, pattern: re.Pattern[str], take: Take = "last") -> str | None:
    """The answer in `text`: the first group that took part in the first or last match; None where nothing matches.

    Whatever minus sign `text` has, `pattern` sees a hyphen.
    """
    matches = list(pattern.finditer(text.translate(_MINUS)))
    if not matches:
        return None
    match = matches[0] if take == "first" else matches[-1]
    return next((group for group in match.groups() if group is not None), None)


def normalized(answer: str) -> str:
    """The form in which answers are compared: numbers by value, other texts without case, spacing or a last full stop.

    ``$1,234.00.`` and ``1234`` are the same number, and so are ``1/2`` and ``0.5``.
    """
    text = " ".join(answer.split()).removesuffix(".").casefold().translate(_MINUS)
    number = _THOUSANDS.sub("", text).replace("$", "").removesuffix("%").replace(" ", "")
    if len(number) < _LONGEST and _PLAIN_NUMBER.fullmatch(number):
        return str(Fraction(number))
    return text
