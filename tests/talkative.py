"""Users' cost models: one that says a lot, as libraries do, and one at which the user presses Ctrl-C."""

import logging
import os
import warnings

from transformers.utils import logging as of_transformers

from evaluators import cost_model

FOREIGN = "something from a library"
INTERRUPT = "NAS_ENGINE_TEST_INTERRUPT"


@cost_model(unit="", direction="minimize")
def chatter(subnet) -> float:
    """A number, and words for everybody."""
    warnings.warn(FOREIGN, RuntimeWarning, stacklevel=1)
    logging.getLogger("a.library").warning(FOREIGN)
    of_transformers.get_logger("transformers.models").warning(FOREIGN)
    for _ in of_transformers.tqdm([FOREIGN], desc=FOREIGN):
        pass
    return float(subnet.parameter_count())


@cost_model(unit="", direction="minimize")
def interrupting(subnet) -> float:
    """The same number for everything, unless the environment says that it is interrupted."""
    if os.environ.get(INTERRUPT):
        raise KeyboardInterrupt
    return 0.0
