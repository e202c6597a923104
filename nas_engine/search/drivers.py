"""Drivers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from nas_engine.search.driver import Driver
from nas_engine.search.errors import SearchError
from nas_engine.search.optuna_driver import OptunaDriver, nsga2_sampler, tpe_sampler
from nas_engine.search.pymoo_driver import PymooNsga2
from nas_engine.search.random_driver import RandomDriver
from search_spaces import SearchSpace

DriverFactory = Callable[[SearchSpace, int, int, int], Driver]  # of space, objectives, population and seed

DRIVERS: Mapping[str, DriverFactory] = {
    "nsga2": PymooNsga2,
    "optuna-nsga2": partial(OptunaDriver, sampler=nsga2_sampler),
    "optuna-tpe": partial(OptunaDriver, sampler=tpe_sampler),
    "random": RandomDriver,
}


def make_driver(driver: str | DriverFactory, space: SearchSpace, objectives: int, population: int, seed: int) -> Driver:
    """A fresh driver for a search.

    Args:
        driver: a name, or a function of space, number of objectives, population and seed.

    Raises:
        SearchError: an unknown name (the known ones are listed), or a population below 2.
    """
    if population < 2:
        raise SearchError(f"population is {population}; it must be at least 2.")
    if not isinstance(driver, str):
        return driver(space, objectives, population, seed)
    if driver not in DRIVERS:
        raise SearchError(f"driver is {driver!r}; choose one of {', '.join(DRIVERS)}, or pass a driver factory.")
    return DRIVERS[driver](space, objectives, population, seed)
