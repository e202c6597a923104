"""What evaluators made of a user's function have in common: a name, a direction, and a version for the ledger."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, SupportsFloat, get_args

from evaluators.checks import require_one_of
from evaluators.functions.fingerprint import function_fingerprint
from evaluators.protocol import Direction, EvaluatorDefaults, Measurement, Subnetwork


class FunctionEvaluator(EvaluatorDefaults):
    """A function with what an evaluator needs besides; its subclasses say what the function is called with.

    Args:
        function: gives a number or a Measurement.
        name: column name of the score; None takes the function's own.
        unit: of the number.
        direction: whether smaller or larger is better.
        version: stands for all that the score depends on, instead of the function's fingerprint.
        computed: the score follows from sizes, so that drivers may ask for thousands.

    Raises:
        ValueError: an unknown direction, or a callable object without the name and version that it needs.
    """

    decorator: str  # how users call it in their code
    computed: bool = False  # each says for itself

    def __init__(
        self,
        function: Callable[..., float | Measurement],
        name: str | None,
        unit: str,
        direction: Direction,
        version: str | None,
        computed: bool,
    ) -> None:
        require_one_of(get_args(Direction), direction=direction)
        if not isinstance(function, FunctionType) and (name is None or version is None):
            raise ValueError(
                f"{function!r} is no plain function, so its name and source are not known; "
                f"give {self.decorator} both name and version."
            )
        self.function, self.name = function, name or function.__name__
        self.unit, self.direction, self.version, self.computed = unit, direction, version, computed
        functools.update_wrapper(self, function, updated=())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, unit={self.unit!r}, direction={self.direction!r})"

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """What the function says of `subnet`."""
        raise NotImplementedError

    def settings(self) -> Mapping[str, Any]:
        """The version that the user gave, else a hash of the function; see `function_fingerprint`."""
        if self.version is not None:
            return {"version": self.version}
        assert isinstance(self.function, FunctionType)
        return {"function": function_fingerprint(self.function)}

    def _measurement(self, score: Any) -> Measurement:
        """What the function returned, as a Measurement.

        Raises:
            TypeError: it is neither a number nor a Measurement.
        """
        if isinstance(score, Measurement):
            return score
        if not isinstance(score, SupportsFloat):
            raise TypeError(
                f"the {self.decorator.replace('_', ' ')} {self.name!r} returned {score!r} of type "
                f"{type(score).__name__}; return a number or a Measurement."
            )
        return Measurement(float(score))


def require_arguments(decorator: str, unit: object) -> None:
    """Check that `decorator` was called before it was applied.

    Raises:
        TypeError: it was used without its parentheses, so that the function stands where the unit should.
    """
    if not isinstance(unit, str):
        raise TypeError(f'{decorator} needs its arguments: write @{decorator}(unit="…", direction="…").')
