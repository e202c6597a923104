"""The surrogate-assisted driver and its parts: features, prediction, proposals, choice of a batch."""

from nas_engine.drivers.surrogate.driver import SurrogateDriver
from nas_engine.drivers.surrogate.exact import Exact
from nas_engine.drivers.surrogate.settings import SurrogateSettings

__all__ = ["Exact", "SurrogateDriver", "SurrogateSettings"]
