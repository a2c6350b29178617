"""How far a fitted law may be off: the envelope of the laws whose exponents lie in its 95 % interval.

    L(x) = offset + coefficient * x^(-exponent)

For each exponent, offset (at least 0) and coefficient are solved anew by least squares of relative residuals. A report
holds an interval of the exponent alone, so this is what its other two numbers would be. Numbers in, numbers out.
"""

# N runs, X places, K exponents

from __future__ import annotations

import numpy as np

from ebwm_cli.run.report_scale import FitReport

Floats = np.ndarray

TRIED = 24
"""Exponents of a band."""


def law_of(fit: FitReport, at: Floats) -> Floats | None:
    """Losses (X,) of a law at `at`; None where there is no law."""
    if fit.exponent is None or fit.coefficient is None or fit.offset is None:
        return None
    return fit.offset + fit.coefficient * at**-fit.exponent


def line_of(fit: FitReport, x: Floats, losses: Floats, at: Floats) -> Floats | None:
    """Losses (X,) at `at` of the straight line in log-log with the slope of `fit`, through the middle of the runs `x`,
    `losses` (N,); None where there is no slope."""
    if fit.slope is None or not len(x):
        return None
    return np.exp(np.log(losses).mean() + fit.slope * (np.log(at) - np.log(x).mean()))


def refitted(fit: FitReport, x: Floats, losses: Floats, exponent: float, at: Floats) -> Floats | None:
    """Losses (X,) at `at` of the law with this exponent that is nearest to the runs `x`, `losses` (N,), residuals
    relative to `fit`; None where that would not fall, or `fit` is none."""
    own = law_of(fit, x)
    if own is None:
        return None
    middle = float(np.exp(np.log(x).mean()))  # powers stay near 1, whatever the unit of x
    power = (x / middle) ** -exponent
    columns = np.stack([np.ones_like(power), power], axis=1) / own[:, None]  # (N, 2)
    (offset, coefficient), *_ = np.linalg.lstsq(columns, losses / own, rcond=None)
    if offset < 0:
        offset, coefficient = 0.0, columns[:, 1] @ (losses / own) / (columns[:, 1] @ columns[:, 1])
    return offset + coefficient * (at / middle) ** -exponent if coefficient > 0 else None


def band_of(fit: FitReport, x: Floats, losses: Floats, at: Floats) -> tuple[Floats, Floats] | None:
    """Lowest and highest loss (X,) at `at` of the laws with exponents across the interval of `fit`, its own among
    them; None where it has no interval."""
    own = law_of(fit, at)
    if own is None or fit.ci95 is None:
        return None
    laws = [refitted(fit, x, losses, exponent, at) for exponent in np.geomspace(*fit.ci95, TRIED)]
    curves = np.stack([own, *(law for law in laws if law is not None)])  # (K, X)
    return curves.min(0), curves.max(0)
