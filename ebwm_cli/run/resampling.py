"""How sure rank statistics are: 95 % intervals over windows drawn again, whole, as predictions of one are alike.

A resample holds each prediction as often as its window was drawn, so it is a row of weights, and its ranks are sums of
the weights below; nothing is sorted twice. Numbers in, numbers out: knows no world and no file.
"""

# D draws, N predictions

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ebwm_cli.run.statistics import LEAST_WINDOWS, unexplained

Floats = NDArray[np.float64]

DRAWS = 1000
"""Resamples of a bootstrap."""
AT_ONCE = 500_000
"""Weights that are held at a time, as many as caches hold."""

Statistic = Callable[[Floats], Floats]
"""Weights (D, N) -> its values (D,), nan where it is undefined."""


def interval(statistic: Statistic, windows: NDArray[np.int64], seed: int) -> tuple[float, float] | None:
    """95 % percentile interval of `statistic`, of predictions that lie in `windows` (N,); None where those are too few,
    or some resample has no such statistic."""
    drawn, place = np.unique(windows, return_inverse=True)
    if len(drawn) < LEAST_WINDOWS:
        return None
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(drawn), np.full(len(drawn), 1 / len(drawn)), size=DRAWS).astype(np.float64)
    parts = np.array_split(times, max(1, DRAWS * len(place) // AT_ONCE))
    values = np.concatenate([statistic(part[:, place]) for part in parts])
    if not np.isfinite(values).all():
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def spearman_of(x: Floats, y: Floats) -> Statistic:
    """Rank correlation of `x` and `y` (N,)."""
    of_x, of_y = below(x, x), below(y, y)
    return lambda weights: _correlation(of_x(weights), of_y(weights), weights)


def partial_spearman_of(x: Floats, y: Floats, given: Floats) -> Statistic:
    """Rank correlation of `x` and `y` (N,) that `given` (N,) does not explain."""
    ranks = [below(each, each) for each in (x, y, given)]

    def statistic(weights: Floats) -> Floats:
        made = [rank(weights) for rank in ranks]
        x_y, x_given, y_given = (_correlation(made[i], made[j], weights) for i, j in ((0, 1), (0, 2), (1, 2)))
        return unexplained(x_y, x_given, y_given)

    return statistic


def auroc_of(positives: Floats, negatives: Floats) -> Statistic:
    """How often one of `positives` (N,) is above one of `negatives` (N,), which are drawn together."""
    lower = below(positives, negatives)
    return lambda weights: (lower(weights) * weights).sum(1) / weights.sum(1) ** 2


def mean_of(values: Floats) -> Statistic:
    """Mean of `values` (N,)."""
    return lambda weights: weights @ values / weights.sum(1)


def below(values: Floats, among: Floats) -> Callable[[Floats], Floats]:
    """Of weights (D, M), (D, N): how many of `among` (M,), each counted by its weight, lie below each of `values` (N,),
    equal ones half. Of `values` among themselves these are ranks, up to a constant."""
    order = np.argsort(among)
    first, last = (np.searchsorted(among[order], values, side) for side in ("left", "right"))

    def counted(weights: Floats) -> Floats:
        counts = np.concatenate([np.zeros((len(weights), 1)), weights[:, order].cumsum(1)], 1)
        return (counts[:, first] + counts[:, last]) / 2

    return counted


def _correlation(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Weighted correlations (D,) of `x` and `y` (D, N)."""
    total = weights.sum(1, keepdims=True)
    x, y = (each - (each * weights).sum(1, keepdims=True) / total for each in (x, y))
    scale = (weights * x**2).sum(1) * (weights * y**2).sum(1)
    return (weights * x * y).sum(1) / np.sqrt(np.where(scale > 0, scale, np.nan))
