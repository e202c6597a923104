"""A Gaussian process over genomes (Rasmussen and Williams, 2006, chapters 2 and 5): a prediction and how sure it is.

The kernel is a sum of parts with a variance each, found by maximum marginal likelihood: linear in each group of
features, which is Bayesian ridge regression, and squared exponentials of the kinds' mean levels and of all levels.
Parts of which the data say nothing keep little variance, so that few evaluations are spent on what is simple.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from nas_engine.arrays import Array
from nas_engine.drivers.surrogate.features import Features

_CONSTANT = 4.0  # prior variance of the overall mean, in units of the data's variance
_MEANS_SCALE = 0.4  # length scale of mean levels
_LEVELS_SCALE = 0.4  # length scale of all levels, a root mean square over genes
_LEAST_NOISE = 1e-6  # of the data's variance
_STEPS = 40  # of the likelihood's ascent
# Variances before anything is known, and how firmly: what is taken away in all explains most, then where, and what was
# expected of it, if anything was; the rest, the squared exponentials and the noise have to earn theirs.
_PRIOR_LINEAR = (1.0, 0.3, 0.3, 0.1, 0.1, 1.0)
_PRIOR_REST = (0.1, 0.1, 0.1)
_PRIOR_WIDTH = 1.5


@dataclass(frozen=True)
class Posterior:
    """What a process knows of some genomes.

    Args:
        mean: shape (genomes,).
        covariance: shape (genomes, genomes), without the noise of measuring.
    """

    mean: Array
    covariance: Array

    def samples(self, count: int, rng: np.random.Generator) -> Array:
        """Draws of the values of all genomes together, shape (count, genomes)."""
        scale = max(float(self.covariance.diagonal().max(initial=0.0)), 1e-12)
        factor = cholesky(self.covariance + 1e-6 * scale * np.eye(len(self.mean)), lower=True)
        drawn: Array = self.mean + rng.standard_normal((count, len(self.mean))) @ factor.T
        return drawn


class Process:
    """A process fitted to values.

    Args:
        features: of the measured genomes.
        values: shape (genomes,).
        log_variances: of the parts and the noise, where they are known from an earlier fit.
        refit: whether to adapt the variances to these values.

    Attributes:
        nll: the negative logarithm of the values' marginal likelihood, but for a constant of their count.
    """

    def __init__(
        self, features: Features, values: Array, log_variances: Array | None = None, refit: bool = True
    ) -> None:
        self._features = features
        self._mean, self._spread = float(values.mean()), max(float(values.std()), 1e-12)
        scaled = (values - self._mean) / self._spread
        parts = _parts(features, features)
        prior = np.log([*_PRIOR_LINEAR[: len(features.linear)], *_PRIOR_REST])
        self.log_variances = prior if log_variances is None else log_variances
        if refit:
            self.log_variances = _most_likely(parts, scaled, self.log_variances, prior)
        self._variances = np.exp(self.log_variances[:-1])
        covariance = _CONSTANT + np.tensordot(self._variances, parts, 1)
        covariance[np.diag_indices_from(covariance)] += np.exp(self.log_variances[-1]) + _LEAST_NOISE
        self._factor = cho_factor(covariance, lower=True)
        self._weights = cho_solve(self._factor, scaled)
        self.nll = _nll(self._factor[0], scaled, self._weights) + len(values) * float(np.log(self._spread))
        # Linear parts predict by a vector a group, whatever the number of measured genomes.
        self._coefficients = [v * (f.T @ self._weights) for v, f in zip(self._variances, features.linear, strict=False)]

    def mean(self, features: Features) -> Array:
        """The expected value of each genome, shape (genomes,)."""
        linear = sum(f @ c for f, c in zip(features.linear, self._coefficients, strict=True))
        smooth = np.tensordot(self._variances[-2:], _smooth_parts(features, self._features), 1) @ self._weights
        values: Array = self._mean + self._spread * (_CONSTANT * self._weights.sum() + linear + smooth)
        return values

    def posterior(self, features: Features) -> Posterior:
        """The joint distribution of the true values."""
        cross = _CONSTANT + np.tensordot(self._variances, _parts(features, self._features), 1)
        prior = _CONSTANT + np.tensordot(self._variances, _parts(features, features), 1)
        half = solve_triangular(self._factor[0], cross.T, lower=True)
        mean = self._mean + self._spread * (cross @ self._weights)
        return Posterior(mean, self._spread**2 * (prior - half.T @ half))


def _nll(factor: Array, values: Array, weights: Array) -> float:
    """The negative log-likelihood of values whose covariance has this Cholesky `factor`; `weights` are the
    covariance's inverse times the values.
    """
    return float(0.5 * values @ weights + np.log(factor.diagonal()).sum())


def _parts(left: Features, right: Features) -> Array:
    """The kernel's parts, shape (parts, left genomes, right genomes)."""
    linear = [a @ b.T for a, b in zip(left.linear, right.linear, strict=True)]
    return np.concatenate([np.stack(linear), _smooth_parts(left, right)])


def _smooth_parts(left: Features, right: Features) -> Array:
    means = _squared_distances(left.means, right.means) / _MEANS_SCALE**2
    levels = _squared_distances(left.levels, right.levels) / (left.levels.shape[1] * _LEVELS_SCALE**2)
    parts: Array = np.exp(-0.5 * np.stack([means, levels]))
    return parts


def _squared_distances(left: Array, right: Array) -> Array:
    """The squared distance of every two rows, by one matrix product."""
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)
    distances: Array = np.maximum(squares - 2 * left @ right.T, 0.0)
    return distances


def _most_likely(parts: Array, values: Array, start: Array, prior: Array) -> Array:
    """Log-variances of the highest marginal likelihood times that of the `prior`, the parts' and the noise's."""
    count = len(values)
    flat = parts.reshape(len(parts), -1)

    def loss(log_variances: Array) -> tuple[float, Array]:
        variances = np.exp(log_variances)
        covariance = _CONSTANT + (variances[:-1] @ flat).reshape(count, count)
        covariance[np.diag_indices(count)] += variances[-1] + _LEAST_NOISE
        factor = cholesky(covariance, lower=True)
        inverse = cho_solve((factor, True), np.eye(count))
        weights = inverse @ values
        slope = inverse - np.outer(weights, weights)  # twice the derivative by the covariance
        gradient = 0.5 * variances * np.append(flat @ slope.ravel(), slope.trace())
        apart = (log_variances - prior) / _PRIOR_WIDTH
        return _nll(factor, values, weights) + 0.5 * float(apart @ apart), gradient + apart / _PRIOR_WIDTH

    bounds = [(-14.0, 5.0)] * len(start)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _STEPS})
    best: Array = found.x
    return best
