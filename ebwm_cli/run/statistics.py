"""What may be concluded from held-out numbers: rank correlations, how well ranks tell two groups apart, and paired
bootstrap intervals.

Spearman: rho = Pearson(rank x, rank y), ties given their mean rank. Partial: rho_xy.z = (rho_xy - rho_xz rho_yz) /
sqrt((1 - rho_xz^2)(1 - rho_yz^2)). AUROC = P(positive > negative) + P(equal) / 2. Knows no world, no window and no
file: numbers in, numbers out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

LEAST_WINDOWS = 5
"""Fewer have no interval: it would leave out what is true far too often."""


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval, in the units of what was averaged."""

    mean: float
    ci95: tuple[float, float] | None
    """None where there are too few windows."""


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Rank correlation of `x` and `y` (N,) in [-1, 1]; nan where it is undefined (N < 2, or one side is constant)."""
    x_values, y_values = _same_length(x, y)
    if x_values.size < 2:
        return math.nan
    return _pearson(rankdata(x_values), rankdata(y_values))


def partial_spearman(x: ArrayLike, y: ArrayLike, given: ArrayLike) -> float:
    """Rank correlation of `x` and `y` (N,) that `given` (N,) does not explain.

    nan where it is undefined: one of the three is constant, or `given` orders `x` or `y` completely.
    """
    x_y, x_given, y_given = spearman(x, y), spearman(x, given), spearman(y, given)
    return float(unexplained(x_y, x_given, y_given))


def unexplained(x_y: ArrayLike, x_given: ArrayLike, y_given: ArrayLike) -> np.ndarray:
    """What of correlations of x and y a third does not explain, whose own with them are `x_given` and `y_given`."""
    x_y, x_given, y_given = (np.asarray(each, dtype=np.float64) for each in (x_y, x_given, y_given))
    left = (1 - x_given**2) * (1 - y_given**2)
    return (x_y - x_given * y_given) / np.sqrt(np.where(left > 1e-12, left, np.nan))  # nan, too, where one is nan


def auroc(positives: ArrayLike, negatives: ArrayLike) -> float:
    """How often one of `positives` (P,) is above one of `negatives` (N,), over all pairs, an equal pair counting half:
    the area under the ROC curve. 0.5 is chance; nan where one side is empty, or a value is nan."""
    above, below = (np.asarray(side, dtype=np.float64).ravel() for side in (positives, negatives))
    if not (above.size and below.size):
        return math.nan
    rank_sum = float(rankdata(np.concatenate([above, below]))[: above.size].sum())
    return (rank_sum / above.size - (above.size + 1) / 2) / below.size


def paired_bootstrap(differences: ArrayLike, draws: int, rng: np.random.Generator) -> Interval:
    """Mean of `differences` (one per window, this - other) and the 95 % percentile interval of `draws` resamples.

    Resampling windows keeps each window's two losses together, so what makes a window hard for both cancels. Fewer than
    LEAST_WINDOWS have no interval.
    """
    values = np.asarray(differences, dtype=np.float64).ravel()
    if values.size == 0:
        raise ValueError("paired_bootstrap: no differences")
    if values.size < LEAST_WINDOWS:
        return Interval(float(values.mean()), None)
    means = np.array([values[rng.integers(0, values.size, values.size)].mean() for _ in range(draws)])
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), (float(low), float(high)))


def _same_length(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x_values, y_values = np.asarray(x, dtype=np.float64).ravel(), np.asarray(y, dtype=np.float64).ravel()
    if x_values.size != y_values.size:
        raise ValueError(f"{x_values.size} values against {y_values.size}")
    return x_values, y_values


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of two ranked series; nan where one is constant."""
    x_centred, y_centred = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x_centred @ x_centred) * float(y_centred @ y_centred))
    return float(x_centred @ y_centred) / scale if scale > 0 else math.nan
