"""A slice through an energy: E on the plane start + u * first + v * second, with the descent path laid on it.

`first` points from the start to where descent ended. `second` is orthogonal to it: towards the truth, so that start,
final and truth all lie in the plane, or random. Both have root mean square 1, so u and v are in state units. Knows no
world, only a function that scores candidates.
"""

# K descent steps, D state size, G grid points per side

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ScoreFn = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""score(candidates (N, D)) -> energies (N,)."""
Second = Literal["truth", "random"]
"""Where the second direction points."""

AT_ONCE = 256
"""Candidates made together: bounds memory where states are large."""
ROOM = 0.75
"""Half a side of a plane, in what it has to show."""
CLOSE = (0.02, 0.3)
"""Of the wider extent: where a plane towards the truth is stretched to show both."""
NOTHING = 1e-6
"""A direction of a smaller root mean square is none."""


@dataclass(frozen=True)
class Landscape:
    """Energies on a G x G grid, and the descent in its coordinates (u, v), in state units."""

    u: Floats  # (G,) along start -> final
    v: Floats  # (G,) along the second direction
    axes: Floats  # (2, D) first and second direction, orthogonal, each of root mean square 1
    energies: Floats  # (G, G), row v, column u
    path: Floats  # (K+1, 2) the descent; exact at its two ends, projected between
    truth: Floats | None  # (2,) exact where the second direction points to it, else projected
    second: Second


def survey(
    score: ScoreFn,
    path: NDArray[np.float32],
    truth: NDArray[np.float32] | None,
    rng: np.random.Generator,
    second: Second,
    grid: int = 49,
) -> Landscape:
    """Score a plane through both ends of the descent `path` (K+1, D), wide enough for it and for `truth` (D,).

    Raises ValueError where the second direction is to point to a truth that is not known.
    """
    points = path.astype(np.float64)
    start = points[0]
    goal = None if truth is None else truth.astype(np.float64) - start
    if second == "truth" and goal is None:
        raise ValueError("no direction to a truth that is not known")
    first = _unit(points[-1] - start, [], rng)
    wanted = goal if second == "truth" and goal is not None else rng.normal(size=start.shape)
    axes = np.stack([first, _unit(wanted, [first], rng)])  # (2, D)

    flat_path = _coordinates(points - start, axes)
    flat_truth = None if goal is None else _coordinates(goal, axes)
    shown = flat_path if flat_truth is None else np.vstack([flat_path, flat_truth])
    u, v = _lines(shown, grid, zoom=second == "truth")
    places = np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)  # (G * G, 2), v outer
    parts = [places[begin : begin + AT_ONCE] for begin in range(0, len(places), AT_ONCE)]
    energies = np.concatenate([score((start + part @ axes).astype(np.float32)) for part in parts])
    return Landscape(u, v, axes, energies.astype(np.float64).reshape(grid, grid), flat_path, flat_truth, second)


def _unit(wanted: Floats, others: list[Floats], rng: np.random.Generator) -> Floats:
    """`wanted` made orthogonal to `others` with root mean square 1; a random direction where nothing is left of it."""
    for direction in (wanted, rng.normal(size=wanted.shape)):
        rest = direction - sum((_coordinates(direction, other[None])[0] * other for other in others), np.zeros(1))
        size = np.sqrt(np.mean(rest**2))
        if size > NOTHING:
            return rest / size
    return wanted + 1.0  # a one-dimensional state has no second direction


def _coordinates(offsets: Floats, axes: Floats) -> Floats:
    """Offsets (..., D) from the start as multiples of `axes` (2, D)."""
    return offsets @ axes.T / axes.shape[1]


def _lines(points: Floats, grid: int, zoom: bool) -> tuple[Floats, Floats]:
    """Grid lines of a square that holds `points` (N, 2) with room around them; `zoom`: where they lie close together in
    the second direction, but not at one place, that is stretched."""
    low, high = points.min(0), points.max(0)
    widest = max(float((high - low).max()), 1e-3)
    own = float(high[1] - low[1])
    wide, tall = widest, own if zoom and CLOSE[0] < own / widest < CLOSE[1] else widest
    u, v = (low + high) / 2
    return np.linspace(u - ROOM * wide, u + ROOM * wide, grid), np.linspace(v - ROOM * tall, v + ROOM * tall, grid)
