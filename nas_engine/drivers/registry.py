"""Drivers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from nas_engine.drivers import optuna_driver, pymoo_driver
from nas_engine.drivers.driver import Driver, DriverProblem
from nas_engine.drivers.local_driver import HillClimbingDriver, LocalSearchDriver
from nas_engine.drivers.optuna_driver import OptunaDriver
from nas_engine.drivers.pymoo_driver import PymooDriver
from nas_engine.drivers.random_driver import RandomDriver
from nas_engine.drivers.surrogate import Exact, SurrogateDriver
from nas_engine.errors import SearchError

DriverFactory = Callable[[DriverProblem], Driver]

TAKES_SENSITIVITY = ("auto", "milp", "surrogate")  # drivers that make something of a sensitivity
NEEDS_SENSITIVITY = ("milp",)  # those that cannot do without
_MANY = 1000  # evaluations beyond which predictions take longer than they save


def automatic(problem: DriverProblem) -> Driver:
    """The driver for a budget and what its evaluations cost.

    - a space no larger than the budget is evaluated whole, in random order;
    - the surrogate, where an objective or constraint has to be measured and the budget is known and at most 1,000: it
      spends up to a third of a second an evaluation to make do with a quarter of them;
    - NSGA-II else: everything is computed, or there are so many evaluations that they must be cheap.

    The rule looks at what was declared and never at a clock, so that a resumed search makes the same choice. A larger
    budget may make another.
    """
    if problem.space.size() <= problem.evaluations:
        return RandomDriver(problem)
    everything_computed = (
        problem.computed is not None and not np.isnan(problem.computed(problem.space.largest[None])).any()
    )
    if everything_computed or not 0 < problem.evaluations <= _MANY:
        return PymooDriver(problem)
    return SurrogateDriver(problem)


DRIVERS: Mapping[str, DriverFactory] = {
    "auto": automatic,
    "surrogate": SurrogateDriver,
    "milp": partial(SurrogateDriver, proposals=Exact),
    "nsga2": PymooDriver,
    "nsga2-layers": partial(PymooDriver, algorithm=pymoo_driver.nsga2_layers),
    "nsga3": partial(PymooDriver, algorithm=pymoo_driver.nsga3),
    "unsga3": partial(PymooDriver, algorithm=pymoo_driver.unsga3),
    "age-moea": partial(PymooDriver, algorithm=pymoo_driver.age_moea),
    "sms-emoa": partial(PymooDriver, algorithm=pymoo_driver.sms_emoa),
    "moead": partial(PymooDriver, algorithm=pymoo_driver.moead),
    "optuna-nsga2": partial(OptunaDriver, sampler=optuna_driver.nsga2_sampler),
    "optuna-nsga3": partial(OptunaDriver, sampler=optuna_driver.nsga3_sampler),
    "optuna-tpe": partial(OptunaDriver, sampler=optuna_driver.tpe_sampler),
    "optuna-gp": partial(OptunaDriver, sampler=optuna_driver.gp_sampler),
    "local-search": LocalSearchDriver,
    "hill-climbing": HillClimbingDriver,
    "random": RandomDriver,
}


def make_driver(driver: str | DriverFactory, problem: DriverProblem) -> Driver:
    """A fresh driver for a search.

    Args:
        driver: a name, or a function of the problem.
        problem: what is searched.

    Raises:
        SearchError: an unknown name (the known ones are listed), a population below 2, or a sensitivity of which the
            driver makes nothing; a function whose result lacks what drivers have.
    """
    if problem.population < 2:
        raise SearchError(f"population is {problem.population}; it must be at least 2.")
    require_driver_name(driver)
    if not isinstance(driver, str):
        return _whole(driver(problem))
    if problem.sensitivity is not None and driver not in TAKES_SENSITIVITY:
        raise SearchError(
            f"driver is {driver!r}, which makes nothing of a sensitivity; choose {' or '.join(TAKES_SENSITIVITY)}, or "
            "do without."
        )
    return DRIVERS[driver](problem)


def require_driver_name(driver: str | DriverFactory) -> None:
    """Check that `driver` is a name in `DRIVERS` or a function.

    Raises:
        SearchError: it is not; the names are listed.
    """
    if not callable(driver) and driver not in DRIVERS:
        raise SearchError(f"driver is {driver!r}; choose one of {', '.join(DRIVERS)}, or pass a driver factory.")


def _whole(made: Driver) -> Driver:
    """A driver of somebody else's, if it has all that a search relies on."""
    called = type(made).__name__
    if lacking := [name for name in ("ask", "tell") if not callable(getattr(made, name, None))]:
        raise SearchError(
            f"the driver {called} has no {' and no '.join(lacking)}; see nas_engine.drivers.driver.Driver."
        )
    if not isinstance(getattr(made, "asynchronous", None), bool):
        raise SearchError(
            f"the driver {called} does not say whether it is asynchronous: give the class asynchronous = True where it "
            "may be asked several times before it is told, else asynchronous = False."
        )
    return made
