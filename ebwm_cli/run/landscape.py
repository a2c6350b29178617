"""A slice through an energy: E on the plane start + u * first + v * second, with the descent path laid on it.

`first` points from the start to where descent ended. `second` is orthogonal to it: towards the truth where that is
known, so that start, final and truth all lie in the plane, otherwise random. Both have root mean square 1, so u and v
are in state units. Knows no world, only a function that scores candidates.
"""

# K descent steps, D state size, G grid points per side

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ScoreFn = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""score(candidates (N, D)) -> energies (N,)."""


@dataclass(frozen=True)
class Landscape:
    """Energies on a G x G grid, and the descent in its coordinates (u, v), in state units."""

    u: Floats  # (G,) along start -> final
    v: Floats  # (G,) along the second direction
    energies: Floats  # (G, G), row v, column u
    path: Floats  # (K+1, 2) the descent; exact at its two ends, projected between
    truth: Floats | None  # (2,)
    second: str  # what the second direction is


def survey(
    score: ScoreFn,
    path: NDArray[np.float32],
    truth: NDArray[np.float32] | None,
    rng: np.random.Generator,
    grid: int = 49,
) -> Landscape:
    """Score a plane through the descent `path` (K+1, D), wide enough for the path and for `truth` (D,)."""
    points = path.astype(np.float64)
    start = points[0]
    goal = None if truth is None else truth.astype(np.float64) - start
    first = _unit(points[-1] - start, [], rng)
    second = _unit(goal if goal is not None else np.zeros_like(start), [first], rng)
    axes = np.stack([first, second])  # (2, D), orthogonal, each of root mean square 1

    flat_path = _coordinates(points - start, axes)
    flat_truth = None if goal is None else _coordinates(goal, axes)
    shown = flat_path if flat_truth is None else np.vstack([flat_path, flat_truth])
    u, v = _square(shown, grid)
    places = np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)  # (G * G, 2), v outer
    energies = score((start + places @ axes).astype(np.float32)).astype(np.float64).reshape(grid, grid)
    return Landscape(u, v, energies, flat_path, flat_truth, "random" if goal is None else "towards the truth")


def _unit(wanted: Floats, others: list[Floats], rng: np.random.Generator) -> Floats:
    """`wanted` made orthogonal to `others` with root mean square 1; a random direction where nothing is left of it."""
    for direction in (wanted, rng.normal(size=wanted.shape)):
        rest = direction - sum((_coordinates(direction, other[None])[0] * other for other in others), np.zeros(1))
        size = np.sqrt(np.mean(rest**2))
        if size > 1e-6:
            return rest / size
    return wanted + 1.0  # a one-dimensional state has no second direction


def _coordinates(offsets: Floats, axes: Floats) -> Floats:
    """Offsets (..., D) from the start as multiples of `axes` (2, D)."""
    return offsets @ axes.T / axes.shape[1]


def _square(points: Floats, grid: int) -> tuple[Floats, Floats]:
    """Grid lines of a square that holds `points` (N, 2) with room around them."""
    low, high = points.min(0), points.max(0)
    half = 0.75 * max(float((high - low).max()), 1e-3)
    centre = (low + high) / 2
    return np.linspace(centre[0] - half, centre[0] + half, grid), np.linspace(centre[1] - half, centre[1] + half, grid)
