"""Runs packed onto devices, the longest first: how long a study takes, and which run starts where and when.

Greedy: each run starts on the devices that are free first (Graham 1969: at most 4/3 of the best possible for runs of
one device). Knows hours and counts only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Placed:
    """Where and when a run goes."""

    device: int
    """The first of its devices."""
    start: float
    """In the unit of the hours."""


def longest_first(hours: Sequence[float]) -> list[int]:
    """Places of the runs (R,) in the order in which they are started; equal ones as they stand."""
    return sorted(range(len(hours)), key=lambda index: -hours[index])


def pack(hours: Sequence[float], needs: Sequence[int], devices: int) -> tuple[list[Placed], float]:
    """Where each run goes, whose wall-clock hours (R,) on `needs` (R,) devices at once are known, and when all end.

    Raises ValueError where a run needs more devices than there are.
    """
    if any(need > devices for need in needs):
        raise ValueError(f"a run needs {max(needs)} of {devices} devices")
    free = [0.0] * devices
    placed: list[Placed] = [Placed(0, 0.0)] * len(hours)
    for index in longest_first(hours):
        chosen = sorted(range(devices), key=lambda device: (free[device], device))[: needs[index]]
        start = max(free[device] for device in chosen)
        placed[index] = Placed(min(chosen), start)
        for device in chosen:
            free[device] = start + hours[index]
    return placed, max(free, default=0.0)
