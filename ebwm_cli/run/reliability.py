"""Reliability: how large errors are where a model foresees small ones, and where it foresees large ones.

Positions are sorted by a score into BINS parts; error_b = sum of errors / positions in part b, with the 95 % interval
of a bootstrap that draws whole windows, as errors within one are alike. Numbers in, a report out; knows no world.
"""

# W windows, S positions per window, b bins

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from ebwm_cli.run.measure import Floats
from ebwm_cli.run.pairs import positions
from ebwm_cli.run.report_calibration import Reliability, ReliabilityBin
from ebwm_cli.run.statistics import LEAST_WINDOWS

BINS = 10
DRAWS = 2000
"""Resamples of a bootstrap."""


def reliability(by: str, scores: Floats, errors: Floats, seed: int) -> Reliability:
    """Mean errors (W, S) of positions sorted by `scores` (W, S), which are called `by`.

    Equal scores are never parted, so that parts differ in size where there are many. No bins where a score or an error
    is not finite, or all scores are equal.
    """
    if not (np.isfinite(scores).all() and np.isfinite(errors).all()):
        return Reliability(by=by, bins=[], how=f"undefined: not every {by} and error is finite")
    if np.ptp(scores) == 0:
        return Reliability(by=by, bins=[], how=f"undefined: {by} is the same at all {positions(scores)}")
    place = parts(scores, BINS)  # (W, S)
    sums, counts = by_window(place, errors), by_window(place, np.ones_like(errors))
    sure = len(errors) >= LEAST_WINDOWS
    low, high = _interval(sums, counts, seed) if sure else (np.empty(0), np.empty(0))
    scored, erred, filled = by_window(place, scores).sum(0), sums.sum(0), counts.sum(0)
    bins = [
        ReliabilityBin(
            mean_score=float(scored[part] / filled[part]),
            mean_error=float(erred[part] / filled[part]),
            ci95=(float(low[part]), float(high[part])) if sure else None,
            positions=int(filled[part]),
            windows=int((counts[:, part] > 0).sum()),
        )
        for part in np.flatnonzero(filled).tolist()
    ]
    resamples = f"95 % intervals from {DRAWS:,} resamples of {len(errors):,} whole windows"
    intervals = resamples if sure else "too few windows for intervals"
    how = (
        f"mean error of {positions(errors)} sorted by {by} into {len(bins)} parts of equal size, equal ones never "
        f"parted; {intervals}"
    )
    return Reliability(by=by, bins=bins, how=how)


def parts(scores: Floats, count: int) -> NDArray[np.int64]:
    """Which of `count` parts of equal size each of `scores` falls into, lowest first, in their shape; equal scores fall
    into the one of their mean rank."""
    ranks = rankdata(scores.ravel()) - 0.5  # 0.5 .. N - 0.5
    return (ranks * count / scores.size).astype(np.int64).reshape(scores.shape)


def by_window(place: NDArray[np.int64], values: Floats) -> Floats:
    """Sums (W, BINS) of `values` (W, S) by window and by the parts `place` (W, S)."""
    windows = len(place)
    cells = np.arange(windows)[:, None] * BINS + place
    sums = np.bincount(cells.ravel(), values.ravel(), windows * BINS)
    return sums.astype(np.float64).reshape(windows, BINS)


def _interval(sums: Floats, counts: Floats, seed: int) -> tuple[Floats, Floats]:
    """Ends (BINS,) of the 95 % percentile intervals of sum / count, over resamples of the windows (W, BINS); of those
    in which a part holds anything."""
    rng, windows = np.random.default_rng(seed), len(sums)
    means = np.full((DRAWS, BINS), np.nan)
    for draw in range(DRAWS):
        times = np.bincount(rng.integers(0, windows, windows), minlength=windows)  # (W,) how often each is drawn
        count = times @ counts
        np.divide(times @ sums, count, out=means[draw], where=count > 0)
    low, high = np.full(BINS, np.nan), np.full(BINS, np.nan)
    for part in np.flatnonzero(counts.sum(0)):
        held = means[:, part]
        low[part], high[part] = np.quantile(held[~np.isnan(held)], [0.025, 0.975])
    return low, high
