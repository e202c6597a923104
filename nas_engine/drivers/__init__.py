"""Algorithms that propose genomes and learn from numbers; they know nothing of networks, files or time."""

from nas_engine.drivers.driver import Driver, DriverProblem, Objectives, Violations
from nas_engine.drivers.registry import DRIVERS, make_driver
from nas_engine.drivers.surrogate import SurrogateDriver, SurrogateSettings

__all__ = [
    "DRIVERS",
    "Driver",
    "DriverProblem",
    "Objectives",
    "SurrogateDriver",
    "SurrogateSettings",
    "Violations",
    "make_driver",
]
