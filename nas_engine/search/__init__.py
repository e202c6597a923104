"""Drivers that propose, the ledger that remembers, and the loop between them."""

from nas_engine.search.driver import Driver, DriverProblem, Objectives, Violations
from nas_engine.search.drivers import DRIVERS, make_driver
from nas_engine.search.errors import LedgerError, SearchError, SelectionError
from nas_engine.search.ledger import Ledger, Record
from nas_engine.search.surrogate import SurrogateDriver, SurrogateSettings

__all__ = [
    "DRIVERS",
    "Driver",
    "DriverProblem",
    "Ledger",
    "LedgerError",
    "Objectives",
    "Record",
    "SearchError",
    "SelectionError",
    "SurrogateDriver",
    "SurrogateSettings",
    "Violations",
    "make_driver",
]
