"""Numbers as a person reads them: with their standard error, as many digits as that leaves, and the unit."""

from __future__ import annotations

import math

_MILLION = 1e6
_ENORMOUS = 1e15  # from which powers of ten say more than digits
_LARGE = ((1e12, "T"), (1e9, "G"), (_MILLION, "M"))


def shown(value: float, stderr: float = 0.0, unit: str = "") -> str:
    """A value with its error and unit, such as ``0.958 ± 0.008`` or ``53.6 M``.

    The error has one significant digit, two where the first is below 5 and rounding would lose much, and the value as
    many decimals.

    Args:
        value: what was measured.
        stderr: its standard error; 0 or NaN where it has none.
        unit: of both.
    """
    if not math.isfinite(value):
        return "unknown"
    if not (math.isfinite(stderr) and stderr > 0):
        return with_unit(_plain(value, unit), unit)
    if max(abs(value), stderr) >= _ENORMOUS:
        return with_unit(f"{_power(value)} ± {_power(stderr)}", unit)
    scale, letter = _scale(value)
    value, stderr = value / scale, stderr / scale
    decimals = _decimals(stderr)
    return with_unit(f"{value:,.{decimals}f} ± {stderr:,.{decimals}f}{letter and f' {letter}'}", unit)


def with_unit(number: str, unit: str) -> str:
    """A number and its unit, if it has one; a letter for thousands stands before it: ``53.6 MB``."""
    if not unit:
        return number
    return f"{number}{unit}" if unit == "B" and number[-1:].isalpha() else f"{number} {unit}"


def _decimals(stderr: float) -> int:
    place = math.floor(math.log10(stderr))
    if stderr / 10**place < 5:
        place -= 1
    return min(12, max(0, -place))


def _power(value: float) -> str:
    return f"{value:.2g}".replace("e+", "e")


def _plain(value: float, unit: str) -> str:
    if abs(value) >= _ENORMOUS:
        return _power(value)
    scale, letter = _scale(value)
    if letter:
        return f"{value / scale:,.4g} {letter}"
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.4g}" if abs(value) < _MILLION else f"{value:,.0f}"


def _scale(value: float) -> tuple[float, str]:
    return next(((scale, letter) for scale, letter in _LARGE if abs(value) >= scale), (1.0, ""))
