"""What evaluators are given, checked where they are made, so that a search does not fail hours later."""

from __future__ import annotations

from collections.abc import Sequence


def require_at_least(least: int, /, **values: object) -> None:
    """Check that each of `values` is an integer from `least` on.

    Raises:
        ValueError: one is not; it is named.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; give an integer of at least {least}.")


def require_one_of(allowed: Sequence[object], **values: object) -> None:
    """Check that each of `values` is one of `allowed`.

    Raises:
        ValueError: one is not; it is named, with what is allowed.
    """
    for name, value in values.items():
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, allowed))}.")
