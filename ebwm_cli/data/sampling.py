"""Which frames of a clip become states, by their timestamps alone.

With an interval, every tick k * interval takes the first frame at or after it, and a frame is taken once; so sparse and
variable frame rates give fewer, never repeated, states. With `every`, each N-th frame is taken, whatever its time.
It must not know pixels or files.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

HOLE_INTERVALS = 4  # a longer hole between two states breaks time: no window crosses it ...
HOLE_SECONDS = 1.0  # ... if it is also longer than this
FASTEST = 1000.0  # frames per second; beyond, timestamps are not believed


@dataclass(frozen=True)
class Sampling:
    """Seconds between states, or frames between states; and the side of the square pictures in pixels."""

    interval: float | None = 0.25
    every: int | None = None
    size: int = 32

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


class Sampler:
    """Decides frame by frame; times in seconds, in the order of decoding."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        interval = sampling.interval or 0.0
        self._slack = min(1e-3, interval / 100)  # containers round to milliseconds
        self._origin = self._tick = self._last = -np.inf

    def takes(self, index: int, time: float) -> bool:
        """Whether frame `index` at `time` becomes a state."""
        if self.sampling.every is not None:
            return index % self.sampling.every == 0
        interval = self.sampling.interval
        assert interval is not None
        if time < self._last - HOLE_SECONDS or self._origin == -np.inf:  # the first frame, or a clock that was set back
            self._origin = self._tick = time
        self._last = time
        if time < self._tick - self._slack:
            return False
        self._tick = self._origin + (np.floor((time - self._origin + self._slack) / interval) + 1) * interval
        return True


def segments_of(times: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Number of the unbroken stretch each state belongs to, (N,) int64 from 0, given the states' times in seconds."""
    if len(times) < 2:
        return np.zeros(len(times), np.int64)
    steps = np.diff(times)
    usual = sampling.interval or float(np.median(np.abs(steps)))
    broken = (steps < 0) | ((steps > HOLE_INTERVALS * usual) & (steps > HOLE_SECONDS))
    return np.concatenate([[0], np.cumsum(broken)]).astype(np.int64)


def frame_rate_problem(times: np.ndarray, sampling: Sampling) -> str | None:
    """Why timestamps can't be used to sample a clip whose frames come at `times`, or None."""
    if sampling.every is not None or len(times) < 2:
        return None
    span = float(times.max() - times.min())
    if span <= 0:
        return "all frames carry the same timestamp (--every N samples by count)"
    rate = (len(times) - 1) / span
    if rate > FASTEST:
        return f"absurd frame rate of {rate:.0f} frames/s (--every N samples by count)"
    return None
