"""What can be wrong with a space or a configuration, said to the person who wrote it."""


class SpaceError(ValueError):
    """A search space cannot be built as described."""


class ConfigurationError(ValueError):
    """A configuration or genome does not belong to its search space."""
