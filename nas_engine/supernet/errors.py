"""What can be wrong with a model, an adapter or its export, said to the person who asked for it."""


class FamilyError(ValueError):
    """A model belongs to no supported family."""


class ExportError(ValueError):
    """A sub-network cannot leave in the form that was asked for."""


class CheckpointError(ValueError):
    """A saved super-network or training checkpoint cannot be used here."""
