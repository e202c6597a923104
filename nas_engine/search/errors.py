"""What can be wrong with a search, its ledger or its result, said to the person who runs it."""


class SearchError(ValueError):
    """A search cannot run as asked."""


class LedgerError(ValueError):
    """A ledger cannot be opened, read or continued."""


class SelectionError(ValueError):
    """No sub-network of a result is what was asked for."""
