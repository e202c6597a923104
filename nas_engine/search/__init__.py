"""Drivers that propose, the ledger that remembers, and the loop between them."""

from nas_engine.search.driver import Driver, Objectives
from nas_engine.search.drivers import DRIVERS, make_driver
from nas_engine.search.errors import LedgerError, SearchError, SelectionError
from nas_engine.search.ledger import Ledger, Record

__all__ = [
    "DRIVERS",
    "Driver",
    "Ledger",
    "LedgerError",
    "Objectives",
    "Record",
    "SearchError",
    "SelectionError",
    "make_driver",
]
