"""What was measured, kept on disk or in a database, and what it was measured with."""

from nas_engine.ledger.ledger import Ledger, Record

__all__ = ["Ledger", "Record"]
