"""Scaling laws through measured losses: L(x) = offset + coefficient * x^(-exponent), and straight lines in log-log.

Variable projection (Golub & Pereyra 1973): for a given exponent the law is linear in the other two, so they are solved
and the exponent alone is searched, from a start at every exponent of a dense grid. Residuals are relative, (L - fit) /
fit, Huber's beyond three scales (as Hoffmann et al., arXiv 2203.15556, take log losses). Numbers in, numbers out.
"""

# N runs, K exponents tried, R replicas

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

Floats = np.ndarray

LEAST_POINTS = 4
"""Distinct x below which no law is fitted: it has three numbers."""
EXPONENTS = np.geomspace(0.01, 5.0, 500)
"""Searched (K,); a fit at an end is none."""
NEAR = np.linspace(-4.0, 4.0, 321)
"""Arguments of sinh, in standard errors of the exponent: where it is looked for in replicas."""
HUBER = 3.0
"""Scales beyond which a residual counts linearly."""
ROUNDS = 6
"""Times that the weights follow the fit."""
TINY = 1e-12
"""Relative noise below which two losses are equal."""


@dataclass(frozen=True)
class Fit:
    """A law, or the reason why there is none: then the numbers are None."""

    exponent: float | None
    coefficient: float | None
    """In units of loss * x^exponent."""
    offset: float | None
    """Loss that no x takes away, at least 0."""
    ci95: tuple[float, float] | None
    """Of the exponent. An end of the search range stands for everything beyond it."""
    points: int
    """Distinct x."""
    reason: str | None = None

    def predict(self, x: ArrayLike) -> Floats:
        """The law's losses at `x`. Raises ValueError where there is no law."""
        if self.exponent is None or self.coefficient is None or self.offset is None:
            raise ValueError(f"no law: {self.reason}")
        return self.offset + self.coefficient * np.asarray(x, dtype=np.float64) ** -self.exponent


@dataclass(frozen=True)
class Line:
    """log loss = level + slope * log x, or the reason why there is none."""

    slope: float | None
    ci95: tuple[float, float] | None
    points: int
    reason: str | None = None


@dataclass(frozen=True)
class Ratio:
    """One slope over another, or the reason why it says nothing."""

    value: float | None
    ci95: tuple[float, float] | None
    reason: str | None = None


def fit_power_law(x: ArrayLike, loss: ArrayLike, *, draws: int = 1000, rng: np.random.Generator | None = None) -> Fit:
    """The law through `x` and `loss` (N,), in any order; a repeated x is another seed.

    The interval is a bootstrap over all runs, so over points and seeds: residuals are drawn again, the law is fitted
    again, and the signed root of the profile's F statistic is compared with what it is in `draws` replicas: a
    bootstrap-t, which keeps its level with few runs. The units of x and loss change neither exponent nor interval.
    Raises ValueError where a number isn't finite and above 0, or the lengths differ.
    """
    x_values, losses = _checked(x, loss)
    points = len(np.unique(x_values))
    few = _too_few(points)
    if few:
        return Fit(None, None, None, None, points, few)
    middle = float(np.exp(np.log(x_values).mean()))
    logs, scale = np.log(x_values / middle), float(np.exp(np.log(losses).mean()))
    law = _Law.through(logs, losses / scale)
    if law is None:
        return Fit(None, None, None, None, points, "the loss does not fall with x")
    if not EXPONENTS[0] * 1.01 < law.exponent < EXPONENTS[-1] / 1.01:
        side = "below" if law.exponent < 1 else "above"
        end = EXPONENTS[0] if law.exponent < 1 else EXPONENTS[-1]
        return Fit(None, None, None, None, points, f"the best exponent is {side} {end:g}: no power law")
    interval = law.interval(draws, rng or np.random.default_rng(0))
    coefficient = law.coefficient * scale * middle**law.exponent
    return Fit(law.exponent, float(coefficient), law.offset * scale, interval, points)


def fit_line(x: ArrayLike, loss: ArrayLike, *, draws: int = 1000, rng: np.random.Generator | None = None) -> Line:
    """The straight least-squares line through log `x` and log `loss` (N,), as the papers draw it: no offset.

    The slope's interval is a bootstrap-t over all runs. Raises ValueError as `fit_power_law` does.
    """
    x_values, losses = _checked(x, loss)
    few = _too_few(points := len(np.unique(x_values)))
    if few:
        return Line(None, None, points, few)
    logs, heights = _centred(x_values), _centred(losses)
    slope, residuals, error = _straight(logs, heights[None])
    free = len(logs) - 2
    drawn = slope * logs + _drawn_again(residuals[0], free, draws, rng or np.random.default_rng(0))
    slopes, _, errors = _straight(logs, drawn)
    low, high = np.quantile((slopes - slope) / np.maximum(errors, TINY), [0.025, 0.975])
    value = float(slope[0])
    return Line(value, (value - float(high * error[0]), value - float(low * error[0])), points)


def slope_ratio(
    x: ArrayLike,
    loss: ArrayLike,
    other_x: ArrayLike,
    other_loss: ArrayLike,
    *,
    draws: int = 1000,
    rng: np.random.Generator | None = None,
) -> Ratio:
    """Slope of the line through `x`, `loss` (N,) over that through `other_x`, `other_loss` (M,); "scales X % faster" is
    the value minus 1 (EBT, arXiv 2507.02092).

    The interval is Fieller's, all ratios at which the two slopes are not told apart, its level from a bootstrap of
    both. Raises ValueError as `fit_power_law` does.
    """
    sides = [_checked(x, loss), _checked(other_x, other_loss)]
    few = next((few for x_values, _ in sides if (few := _too_few(len(np.unique(x_values))))), None)
    if few:
        return Ratio(None, None, few)
    rng = rng or np.random.default_rng(0)
    slopes, errors, drawn_slopes, drawn_errors = [], [], [], []
    for x_values, losses in sides:
        logs = _centred(x_values)
        slope, residuals, error = _straight(logs, _centred(losses)[None])
        drawn = slope * logs + _drawn_again(residuals[0], len(logs) - 2, draws, rng)
        again, _, again_errors = _straight(logs, drawn)
        for kept, value in zip(
            (slopes, errors, drawn_slopes, drawn_errors),
            (slope[0], max(error[0], TINY), again, again_errors),
            strict=True,
        ):
            kept.append(value)
    (own, other), (own_error, other_error) = slopes, errors
    if other == 0:
        return Ratio(None, None, "the loss compared with does not change with x")
    value = own / other
    apart = (drawn_slopes[0] - value * drawn_slopes[1]) / np.hypot(drawn_errors[0], value * drawn_errors[1])
    level = float(np.quantile(np.abs(apart), 0.95))
    # (own - r other)^2 = level^2 (own_error^2 + r^2 other_error^2), a quadratic in r
    leading = other**2 - (level * other_error) ** 2
    if leading <= 0:
        return Ratio(None, None, "the slope compared with is not told from 0")
    middle, last = own * other, own**2 - (level * own_error) ** 2
    root = float(np.sqrt(max(middle**2 - leading * last, 0.0)))
    return Ratio(float(value), (float((middle - root) / leading), float((middle + root) / leading)))


def _straight(logs: Floats, heights: Floats) -> tuple[Floats, Floats, Floats]:
    """Slopes (R,) of heights (R, N) over centred `logs` (N,), residuals (R, N), the slopes' standard errors (R,)."""
    spread = logs @ logs
    slopes = heights @ logs / spread
    residuals = heights - heights.mean(1, keepdims=True) - slopes[:, None] * logs
    return slopes, residuals, np.sqrt((residuals**2).sum(1) / (len(logs) - 2) / spread)


def _centred(values: Floats) -> Floats:
    """log(values) - its mean."""
    return np.log(values) - np.log(values).mean()


@dataclass(frozen=True)
class _Law:
    """A fit in units in which log x and log loss have mean 0."""

    logs: Floats  # (N,)
    losses: Floats  # (N,)
    fitted: Floats  # (N,)
    trust: Floats  # (N,) by which relative residuals are multiplied: 1, less where Huber's loss is linear
    exponent: float
    coefficient: float
    offset: float

    @staticmethod
    def through(logs: Floats, losses: Floats) -> _Law | None:
        """The best law; None where the loss doesn't fall."""
        fitted, trust, law = losses, np.ones_like(losses), None
        for _ in range(ROUNDS):
            exponent = _best_exponent(logs, losses, trust / fitted)
            offset, coefficient = _linear(np.exp(-exponent * logs), losses, trust / fitted)
            if coefficient <= 0:
                return None
            fitted = offset + coefficient * np.exp(-exponent * logs)
            trust = _huber(losses / fitted - 1, trust)
            law = _Law(logs, losses, fitted, trust, exponent, coefficient, offset)
        return law

    def interval(self, draws: int, rng: np.random.Generator) -> tuple[float, float]:
        """95 %, of the exponent."""
        count, free = len(self.losses), max(len(self.losses) - 3, 1)
        drawn = 1 + _drawn_again(self.trust**2 * (self.losses / self.fitted - 1), free, draws, rng)  # (R, N), relative
        tried, own = self._exponents()
        level, power = 1 / self.fitted, np.exp(-np.outer(tried, self.logs)) / self.fitted
        seen = _profile(level * self.trust, power * self.trust, (self.losses / self.fitted)[None] * self.trust)
        squares = np.concatenate([seen, _profile(level, power, drawn)])  # (1 + R, K)
        least = squares.min(1, keepdims=True)
        roots = np.sqrt((squares - least) / (np.maximum(least, TINY**2 * count) / free))
        signed = np.sign(self.exponent - tried[squares.argmin(1)[1:]]) * roots[1:, own]
        low, high = np.quantile(signed, [0.025, 0.975])
        return _inverted(tried, np.sign(tried - self.exponent) * roots[0], float(low), float(high), self.exponent)

    def _exponents(self) -> tuple[Floats, int]:
        """Exponents to try (K,), as dense around the fit as it is sure, and the fit's own place among them."""
        power = np.exp(-self.exponent * self.logs)
        slopes = np.stack([np.ones_like(power), power, -self.coefficient * self.logs * power], 1) / self.fitted[:, None]
        noise = np.sqrt(np.sum((self.losses / self.fitted - 1) ** 2) / max(len(self.losses) - 3, 1))
        error = max(noise, TINY) * np.sqrt(np.linalg.pinv(slopes.T @ slopes)[2, 2])
        near = self.exponent + error * np.sinh(NEAR)  # dense where the fit is, sparse ten errors away
        near = near[(near > EXPONENTS[0]) & (near < EXPONENTS[-1])]
        tried = np.unique(np.concatenate([EXPONENTS[::4], near, [self.exponent]]))
        return tried, int(np.searchsorted(tried, self.exponent))


def _drawn_again(residuals: Floats, free: int, draws: int, rng: np.random.Generator) -> Floats:
    """Replicas (R, N) of residuals (N,) that a fit with `free` degrees of freedom left over: half of their variance is
    resampled, half is normal, as a few residuals alone repeat themselves (a smoothed bootstrap)."""
    noise = np.sqrt(len(residuals) / free) * (residuals - residuals.mean())
    shape = (draws, len(residuals))
    return (rng.choice(noise, shape) + noise.std() * rng.standard_normal(shape)) / np.sqrt(2)


def _inverted(tried: Floats, roots: Floats, low: float, high: float, exponent: float) -> tuple[float, float]:
    """Where the signed root (K,), which grows with the exponents `tried`, crosses `low` and `high`."""
    rising = np.maximum.accumulate(roots)
    falling = np.minimum.accumulate(roots[::-1])[::-1]
    below = float(np.interp(min(low, 0.0), falling, tried))
    above = float(np.interp(max(high, 0.0), rising, tried))
    return min(below, exponent), max(above, exponent)


def _profile(level: Floats, power: Floats, rows: Floats) -> Floats:
    """Least sum of squares (R, K) of rows (R, N) - offset * level (N,) - coefficient * power (K, N), both from 0 up."""
    ll, lp, pp = level @ level, power @ level, np.einsum("kn,kn->k", power, power)
    ly, py = (rows @ level)[:, None], rows @ power.T  # (R, 1), (R, K)
    yy = np.einsum("rn,rn->r", rows, rows)[:, None]
    determinant = ll * pp - lp**2
    offset = (pp * ly - lp * py) / determinant
    coefficient = (ll * py - lp * ly) / determinant
    both = yy - offset * ly - coefficient * py
    least = np.where(coefficient <= 0, yy - ly**2 / ll, np.where(offset < 0, yy - py**2 / pp, both))
    return np.maximum(least, 0.0)


def _best_exponent(logs: Floats, losses: Floats, weights: Floats) -> float:
    """The exponent of least weighted squares: the best of the grid, then refined around it."""

    def squares(exponent: float) -> float:
        power = np.exp(-exponent * logs)
        offset, coefficient = _linear(power, losses, weights)
        return float(np.sum(((losses - offset - coefficient * power) * weights) ** 2))

    grid = _profile(weights, np.exp(-np.outer(EXPONENTS, logs)) * weights, (losses * weights)[None])[0]
    place = int(grid.argmin())
    around = EXPONENTS[max(place - 2, 0)], EXPONENTS[min(place + 2, len(EXPONENTS) - 1)]
    found = minimize_scalar(squares, bounds=around, method="bounded", options={"xatol": 1e-10})
    return float(found.x)


def _linear(power: Floats, losses: Floats, weights: Floats) -> tuple[float, float]:
    """Offset (at least 0) and coefficient of least weighted squares."""
    columns = np.stack([np.ones_like(power), power], axis=1) * weights[:, None]
    (offset, coefficient), *_ = np.linalg.lstsq(columns, losses * weights, rcond=None)
    if offset < 0:
        offset, coefficient = 0.0, float(np.dot(columns[:, 1], losses * weights) / np.dot(columns[:, 1], columns[:, 1]))
    return float(offset), float(coefficient)


def _huber(residuals: Floats, trust: Floats) -> Floats:
    """The next `trust` (N,), whose squares are Huber's weights min(1, HUBER * scale / |r|); the scale is that of what
    the last ones leave of the residuals (Huber's proposal 2): of few runs, too few to tell an outlier, all count."""
    free = max(len(residuals) - 3, 1)
    scale = float(np.sqrt(np.sum((trust**2 * residuals) ** 2) / free))
    return np.sqrt(np.minimum(1.0, HUBER * max(scale, TINY) / np.maximum(np.abs(residuals), TINY)))


def _checked(x: ArrayLike, loss: ArrayLike) -> tuple[Floats, Floats]:
    x_values, losses = (np.asarray(each, dtype=np.float64).ravel() for each in (x, loss))
    if len(x_values) != len(losses):
        raise ValueError(f"{len(x_values)} x and {len(losses)} losses")
    for name, values in (("x", x_values), ("loss", losses)):
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise ValueError(f"{name} must be finite and above 0")
    return x_values, losses


def _too_few(points: int) -> str | None:
    if points >= LEAST_POINTS:
        return None
    return f"{points} point{'s' * (points != 1)}; a law needs {LEAST_POINTS}"
