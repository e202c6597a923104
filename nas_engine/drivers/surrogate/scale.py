"""The scale on which a measured score is predicted: its own or a logarithm (warped processes, Snelson et al., 2004).

Perplexity, time and energy span magnitudes over a space, and what is taken away multiplies them: in their logarithm the
parts of a sub-network add up, and one hopeless sub-network does not hide what sets good ones apart.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nas_engine.arrays import Array
from nas_engine.drivers.surrogate.features import Features
from nas_engine.drivers.surrogate.process import Process

_WORTH_ASKING = 3.0  # largest value over least, below which a logarithm is nearly straight


def explains_better(features: Features, values: Array) -> bool:
    """Whether the logarithm of `values` has the higher marginal likelihood.

    Args:
        features: of the measured genomes.
        values: shape (genomes,), to be minimized.
    """
    if values.min() <= 0 or values.max() < _WORTH_ASKING * values.min():
        return False
    logarithms = np.log(values)
    # A density of the logarithm is one of the value when divided by the value.
    nll = Process(features, logarithms).nll + float(logarithms.sum())
    return nll < Process(features, values).nll


def rescaled(values: Array, logarithmic: npt.NDArray[np.bool_]) -> Array:
    """`values`, shape (genomes, outputs), those outputs as logarithms that `logarithmic`, shape (outputs,), names."""
    scaled = values.copy()
    scaled[:, logarithmic] = np.log(scaled[:, logarithmic])
    return scaled
