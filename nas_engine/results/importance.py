"""Which genes matter for an objective: the share of each in how it varies, as the rows of a search tell.

A search is no random sample: it crowds around the front, and moves genes together. So the default fits all genes at
once; importances that look at one gene at a time credit it with what its companions did.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, IntDistribution

from nas_engine.errors import SelectionError
from search_spaces import SearchSpace

if TYPE_CHECKING:
    from optuna.importance import BaseImportanceEvaluator

_COMPUTABLE = 1e60  # larger values have no squares
_FEWEST_ROWS = 10
_PENALTIES = np.logspace(-3, 4, 29)
Floats = npt.NDArray[np.float64]


def gene_importance(
    frame: pd.DataFrame,
    space: SearchSpace,
    objective: str,
    evaluator: BaseImportanceEvaluator | None = None,
    maximize: bool = False,
) -> pd.Series:
    """The share of each gene in how an objective varies over the space, the largest first; they add up to 1.

    Args:
        frame: of a search; its failed rows are left out.
        space: whose genes are columns of `frame`.
        objective: a column of `frame`.
        evaluator: one of Optuna's, which sees genes as integers; None takes `main_effects`.
        maximize: whether the objective is to be large; some of Optuna's evaluators look at the better rows.

    Raises:
        SelectionError: fewer than ten measured rows, or an objective that is the same in all of them.
    """
    rows = frame[frame["error"] == ""]
    if len(rows) < _FEWEST_ROWS:
        raise SelectionError(f"gene importance needs {_FEWEST_ROWS} measured rows or more; there are {len(rows)}.")
    if rows[objective].nunique() == 1:
        raise SelectionError(f"{objective} is {rows[objective].iloc[0]} in every row: no gene moves it.")
    indices = np.column_stack([rows[g.name].map({v: i for i, v in enumerate(g.values)}) for g in space.genes])
    values = rows[objective].to_numpy(dtype=float)
    values = values / max(1.0, float(np.abs(values).max()) / _COMPUTABLE)  # shares are of any scale
    if evaluator is None:
        shares = pd.Series(main_effects(indices, values, space.cardinalities), index=list(space.names))
    else:
        from optuna.importance import get_param_importances  # imports scikit-learn where that is installed

        study = _study(indices, -values if maximize else values, space)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that they are experimental, and take the objective as to be minimized
            found = get_param_importances(study, evaluator=evaluator, target=lambda trial: trial.values[0])
        shares = pd.Series(found).reindex(list(space.names), fill_value=0.0)
    return shares.rename(objective).sort_values(ascending=False, kind="stable").rename_axis("gene")


def main_effects(indices: npt.NDArray[np.int64], values: Floats, cardinalities: npt.NDArray[np.int64]) -> Floats:
    """First-order shares of variance (Sobol, 1993) of an additive model, shape (genes,); they add up to 1.

    The model is a line and a parabola in each gene's index, orthonormal over the gene's values drawn uniformly, so that
    a gene's variance over the *space* is the sum of its two squared coefficients, wherever the rows lie. All
    coefficients are fitted together by ridge regression, whose penalty has the least leave-one-out error.

    Args:
        indices: genomes, shape (rows, genes).
        values: the objective, shape (rows,).
        cardinalities: how many values each gene has, shape (genes,).
    """
    columns, owners = [], []
    for gene, count in enumerate(cardinalities):
        basis = _orthonormal(int(count))  # (count, 1 or 2)
        columns.append(basis[indices[:, gene]])
        owners += [gene] * basis.shape[1]
    features = np.hstack(columns)
    coefficients = _ridge(features - features.mean(axis=0), values - values.mean())
    variances = np.bincount(owners, weights=coefficients**2, minlength=len(cardinalities))
    total = variances.sum()
    return variances / total if total > 0 else np.full(len(cardinalities), 1 / len(cardinalities))


def _orthonormal(count: int) -> Floats:
    """A line, and a parabola where there are three values or more, at 0 … count - 1: mean 0 and variance 1 each."""
    x = np.arange(count) - (count - 1) / 2
    powers = np.vander(x, min(count, 3), increasing=True)  # (count, 2 or 3)
    basis: Floats = np.linalg.qr(powers)[0][:, 1:] * np.sqrt(count)
    return basis


def _ridge(features: Floats, values: Floats) -> Floats:
    """Coefficients of centred features, with the penalty of least leave-one-out error, shape (features,)."""
    u, s, vt = np.linalg.svd(features, full_matrices=False)
    projected = u.T @ values
    errors = []
    for penalty in _PENALTIES:
        kept = s**2 / (s**2 + penalty)
        residuals = values - u @ (kept * projected)
        leverage = (u**2 * kept).sum(axis=1) + 1 / len(values)  # the mean takes a part too
        errors.append(((residuals / np.maximum(1 - leverage, 1e-9)) ** 2).mean())
    best = _PENALTIES[int(np.argmin(errors))]
    coefficients: Floats = vt.T @ (s / (s**2 + best) * projected)
    return coefficients


def _study(indices: npt.NDArray[np.int64], values: Floats, space: SearchSpace) -> optuna.Study:
    """The rows as a study in memory whose parameters are the genes' indices."""
    varying: dict[str, BaseDistribution] = {gene.name: IntDistribution(0, len(gene) - 1) for gene in space.genes}
    study = optuna.create_study()
    for row, value in zip(indices.tolist(), values.tolist(), strict=True):
        params = dict(zip(space.names, row, strict=True))
        study.add_trial(optuna.trial.create_trial(params=params, distributions=varying, value=value))
    return study
