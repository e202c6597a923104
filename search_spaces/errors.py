"""What can be wrong with a space or a configuration, said to the person who wrote it."""


class NasEngineError(Exception):
    """The base of all errors of this project's own."""


class SpaceError(NasEngineError, ValueError):
    """A search space cannot be built as described."""


class ConfigurationError(NasEngineError, ValueError):
    """A configuration or genome does not belong to its search space."""
