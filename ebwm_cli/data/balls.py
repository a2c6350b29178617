"""Elastic balls in a box, exactly: free flight between events, impulses at events.

All balls feel one constant gravity, so two of them move on straight lines relative to each other, and all collision
times solve quadratics: |dx + dv t| = r1 + r2, x + v t + g t^2 / 2 = wall. Momentum and energy are kept to rounding. It
must not know pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass
class Balls:
    """N balls in the box from `low` (2,) to `high` (2,), lengths in box sides, times in seconds: position and velocity
    (N, 2), radius and mass (N,), gravity (2,). `advance` moves them in place, and counts what they run into.
    """

    position: np.ndarray
    velocity: np.ndarray
    radius: np.ndarray
    mass: np.ndarray
    low: np.ndarray
    high: np.ndarray
    gravity: np.ndarray
    touches: int = 0
    """Collisions of two balls so far."""
    bounces: int = 0
    """Collisions of a ball with a wall so far."""

    @property
    def collisions(self) -> int:
        """Of either sort, so far."""
        return self.touches + self.bounces

    def frames(self, count: int, rate: float) -> Iterator[np.ndarray]:
        """Positions (N, 2) at `count` moments, 1 / rate seconds apart, beginning with now."""
        yield self.position.copy()
        for _ in range(count - 1):
            self.advance(1.0 / rate)
            yield self.position.copy()

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`, through every collision on the way."""
        while True:
            wait, event = self._next_event()
            if wait >= seconds:
                self._fly(seconds)
                return
            self._fly(wait)
            seconds -= wait
            self._collide(*event)

    def _fly(self, seconds: float) -> None:
        self.position += self.velocity * seconds + 0.5 * self.gravity * seconds**2
        self.velocity += self.gravity * seconds

    def _next_event(self) -> tuple[float, tuple[int, int, int]]:
        """Seconds to the next collision, and (ball, other, -1) or (ball, -1, axis)."""
        best, event = math.inf, (0, 0, 0)
        x, v, g = self.position.tolist(), self.velocity.tolist(), self.gravity.tolist()
        radius, low, high = self.radius.tolist(), self.low.tolist(), self.high.tolist()
        for i in range(len(x)):
            for axis in (0, 1):
                for wall, side in ((low[axis], -1.0), (high[axis], 1.0)):
                    gap = side * (wall - x[i][axis]) - radius[i]
                    wait = _time_to(gap, side * v[i][axis], side * g[axis])
                    if wait < best:
                        best, event = wait, (i, -1, axis)
            for j in range(i):
                wait = _time_to_touch(
                    x[i][0] - x[j][0], x[i][1] - x[j][1], v[i][0] - v[j][0], v[i][1] - v[j][1], radius[i] + radius[j]
                )
                if wait < best:
                    best, event = wait, (i, j, -1)
        return best, event

    def _collide(self, ball: int, other: int, axis: int) -> None:
        if other < 0:
            self.bounces += 1
            self.velocity[ball, axis] *= -1.0
            return
        self.touches += 1
        apart = self.position[ball] - self.position[other]
        normal = apart / np.linalg.norm(apart)
        closing = (self.velocity[ball] - self.velocity[other]) @ normal
        impulse = -2.0 * closing / (1.0 / self.mass[ball] + 1.0 / self.mass[other]) * normal
        self.velocity[ball] += impulse / self.mass[ball]
        self.velocity[other] -= impulse / self.mass[other]


def _time_to(gap: float, speed: float, pull: float) -> float:
    """First time at which speed t + pull t^2 / 2 = gap while moving towards it; the gap is 0 just after a bounce."""
    gap = max(gap, 0.0)
    if pull == 0.0:
        return gap / speed if speed > 0.0 else math.inf
    under = speed * speed + 2.0 * pull * gap
    if under < 0.0:
        return math.inf
    # At the wanted root the velocity towards the wall, speed + pull t, is +sqrt(under).
    root = math.sqrt(under)
    if speed >= 0.0:
        return 2.0 * gap / (speed + root) if speed + root > 0.0 else math.inf
    return (root - speed) / pull if pull > 0.0 else math.inf


def _time_to_touch(dx: float, dy: float, du: float, dv: float, reach: float) -> float:
    """First time at which two balls that approach each other touch."""
    closing = dx * du + dy * dv
    if closing >= 0.0:
        return math.inf
    speed2 = du * du + dv * dv
    beyond = max(dx * dx + dy * dy - reach * reach, 0.0)
    under = closing * closing - speed2 * beyond
    return beyond / (-closing + math.sqrt(under)) if under > 0.0 else math.inf
