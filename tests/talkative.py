"""A user's cost model that says a lot, as libraries do."""

import logging
import warnings

from transformers.utils import logging as of_transformers

from evaluators import cost_model

FOREIGN = "something from a library"


@cost_model(unit="", direction="minimize")
def chatter(subnet) -> float:
    """A number, and words for everybody."""
    warnings.warn(FOREIGN, RuntimeWarning, stacklevel=1)
    logging.getLogger("a.library").warning(FOREIGN)
    of_transformers.get_logger("transformers.models").warning(FOREIGN)
    for _ in of_transformers.tqdm([FOREIGN], desc=FOREIGN):
        pass
    return float(subnet.parameter_count())
