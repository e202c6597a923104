"""The scale on which a measured score is predicted: its own or a logarithm (warped processes, Snelson et al., 2004).

Perplexity, time and energy span magnitudes over a space, and what is taken away multiplies them: in their logarithm the
parts of a sub-network add up. What is hopeless is said to be no worse than that, so that it does not hide what sets
good ones apart.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nas_engine.arrays import Array
from nas_engine.drivers.surrogate.features import Features
from nas_engine.drivers.surrogate.process import Process

_WORTH_ASKING = 3.0  # largest value over least, below which a logarithm is nearly straight
_HOPELESS = 10.0  # times as far from the best as the median is
_FAR = 2.0  # of a missed constraint: beyond, it is missed for sure


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


def without_hopeless(objectives: Array) -> Array:
    """`objectives`, shape (genomes, objectives), to be minimized, the worst of each no worse than ten times as far
    from the best as the median is.
    """
    best, median = objectives.min(axis=0), np.median(objectives, axis=0)
    most = np.where(median > best, best + _HOPELESS * (median - best), np.inf)
    return np.minimum(objectives, most)


def within_reach(violations: Array) -> Array:
    """`violations`, any shape, of the same signs, and bent the more the farther from 0: whether a constraint is kept is
    decided about its bound, and a bound may be missed by magnitudes.
    """
    bent = np.sign(violations) * np.log1p(np.abs(violations))
    clipped: Array = np.clip(bent, -_FAR, _FAR)
    return clipped
