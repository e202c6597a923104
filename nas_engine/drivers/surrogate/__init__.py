"""The surrogate-assisted driver and its parts: features, prediction, inner search, choice of a batch."""

from nas_engine.drivers.surrogate.driver import SurrogateDriver, SurrogateSettings

__all__ = ["SurrogateDriver", "SurrogateSettings"]
