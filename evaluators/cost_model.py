"""A user's own function of a sub-network as an evaluator: energy, cost, the latency of an accelerator on paper."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any, SupportsFloat, get_args

from evaluators.checks import require_one_of
from evaluators.protocol import Direction, Measurement, Subnetwork

CostFunction = Callable[[Subnetwork], "float | Measurement"]


class CostModel:
    """An evaluator that calls a function; made by `cost_model`."""

    def __init__(
        self,
        function: CostFunction,
        name: str,
        unit: str,
        direction: Direction,
        version: str | None,
        computed: bool = True,
    ) -> None:
        self.function, self.name, self.unit, self.direction, self.version = function, name, unit, direction, version
        self.computed = computed
        functools.update_wrapper(self, function, updated=())

    def __repr__(self) -> str:
        return f"CostModel({self.name!r}, unit={self.unit!r}, direction={self.direction!r})"

    def settings(self) -> Mapping[str, Any]:
        """The version that the user gave, else a hash of the function; see `cost_model`."""
        if self.version is not None:
            return {"version": self.version}
        assert isinstance(self.function, FunctionType)
        return {"function": _fingerprint(self.function)}

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """What the function says of `subnet`.

        Raises:
            TypeError: it returned neither a number nor a Measurement.
        """
        cost: Any = self.function(subnet)
        if isinstance(cost, Measurement):
            return cost
        if not isinstance(cost, SupportsFloat):
            raise TypeError(
                f"the cost model {self.name!r} returned {cost!r} of type {type(cost).__name__}; "
                "return a number or a Measurement."
            )
        return Measurement(float(cost))


def cost_model(
    unit: str = "",
    direction: Direction = "minimize",
    name: str | None = None,
    version: str | None = None,
    computed: bool = True,
) -> Callable[[CostFunction], CostModel]:
    """Make an evaluator of a function from a sub-network to a number, or to a Measurement.

    ``@cost_model(unit="mJ", direction="minimize")`` above the function is all that is needed.

    A ledger tells one version of the function from another by a hash of its source, and of the numbers, texts, lists
    and functions that it takes from its own module or an enclosing function. It does not see other objects, files, or
    what imported functions do: where those change, give and change `version`.

    Args:
        unit: of the number.
        direction: whether smaller or larger is better.
        name: column name of the score; the function's own by default.
        version: stands for all that the score depends on, instead of the hash.
        computed: whether the number follows from sizes alone, so that a driver may call the function for many
            sub-networks that it does not propose; say False where it runs or times something.

    Raises:
        ValueError: an unknown direction, or a callable object without the name and version that it needs.
        TypeError: used without its parentheses.
    """
    if not isinstance(unit, str):
        raise TypeError('cost_model needs its arguments: write @cost_model(unit="mJ", direction="minimize").')
    require_one_of(get_args(Direction), direction=direction)

    def decorate(function: CostFunction) -> CostModel:
        if not isinstance(function, FunctionType) and (name is None or version is None):
            raise ValueError(
                f"{function!r} is no plain function, so its name and source are not known; "
                "give cost_model both name and version."
            )
        return CostModel(function, name or function.__name__, unit, direction, version, computed)

    return decorate


def _fingerprint(function: FunctionType) -> str:
    parts = list(_parts(function, set()))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _parts(function: FunctionType, seen: set[FunctionType]) -> Iterator[Any]:
    """The source of `function` and, by name, the plain values and functions it reads from around it."""
    if function in seen:
        return
    seen.add(function)
    yield _source(function)
    yield _plain(function.__defaults__), _plain(function.__kwdefaults__)
    for name, value in sorted(_surroundings(function).items()):
        if isinstance(value, FunctionType) and value.__module__ == function.__module__:
            yield [name, list(_parts(value, seen))]
        else:
            yield [name, _plain(value)]


def _source(function: FunctionType) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # typed into a console or made by exec
        return repr([(code.co_code, [c for c in code.co_consts if _plain(c)]) for code in _codes(function.__code__)])


def _surroundings(function: FunctionType) -> dict[str, Any]:
    names = {name for code in _codes(function.__code__) for name in code.co_names}
    found = {name: function.__globals__[name] for name in names if name in function.__globals__}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet, as a function that is about to be defined
            continue
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:  # comprehensions and inner functions
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _plain(value: Any) -> str | None:
    """`value` as JSON; None where it is no plain data."""
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError):
        return None
