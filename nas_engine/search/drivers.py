"""Drivers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from nas_engine.search import optuna_driver, pymoo_driver
from nas_engine.search.driver import Driver, DriverProblem
from nas_engine.search.errors import SearchError
from nas_engine.search.optuna_driver import OptunaDriver
from nas_engine.search.pymoo_driver import PymooDriver
from nas_engine.search.random_driver import RandomDriver
from nas_engine.search.surrogate import SurrogateDriver

DriverFactory = Callable[[DriverProblem], Driver]

DRIVERS: Mapping[str, DriverFactory] = {
    "surrogate": SurrogateDriver,
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
    "random": RandomDriver,
}


def make_driver(driver: str | DriverFactory, problem: DriverProblem) -> Driver:
    """A fresh driver for a search.

    Args:
        driver: a name, or a function of the problem.
        problem: what is searched.

    Raises:
        SearchError: an unknown name (the known ones are listed), or a population below 2.
    """
    if problem.population < 2:
        raise SearchError(f"population is {problem.population}; it must be at least 2.")
    if not isinstance(driver, str):
        return driver(problem)
    if driver not in DRIVERS:
        raise SearchError(f"driver is {driver!r}; choose one of {', '.join(DRIVERS)}, or pass a driver factory.")
    return DRIVERS[driver](problem)
