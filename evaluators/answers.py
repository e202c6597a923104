"""Finding an answer in generated text, and telling whether two answers are the same. Pure functions of texts."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Literal

NUMBER = r"(-?\$?(?:\d[\d,]*(?:\.\d+)?|(?<![\w.])\.\d+))"
"""Numbers as GSM8K's solutions write them: ``-3``, ``1,234``, ``$5.50``, ``.5``."""
Take = Literal["first", "last"]
_MINUS = str.maketrans(dict.fromkeys("\u2212\ufe63\uff0d", "-"))  # signs that typesetting and other keyboards write
_PLAIN_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)")


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

    ``$1,234.00.`` and ``1234`` are the same number.
    """
    text = " ".join(answer.split()).removesuffix(".").casefold().translate(_MINUS)
    number = text.replace(",", "").replace("$", "").removesuffix("%").replace(" ", "")
    if _PLAIN_NUMBER.fullmatch(number):
        value = Decimal(number)
        digits = format(value if value else Decimal(0), "f")  # all of them, where Decimal.normalize() rounds to 28
        return digits.rstrip("0").rstrip(".") if "." in digits else digits
    return text
