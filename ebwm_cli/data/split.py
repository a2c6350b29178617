"""Which states train, validate and test: by clip from 20 clips up, else by blocks of time inside each clip.

By clip, the clip's own hash decides, so new clips don't move old ones. By time, an unbroken stretch becomes train | gap
| val | gap | test, with gaps of one window, so that no frame and no window is shared. It must not know pixels or files.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ebwm_cli.data.sampling import Sampling
from ebwm_cli.errors import DataError

TRAIN, VAL, TEST, GAP = 0, 1, 2, -1
BY_CLIP_FROM = 20
HELD_OUT = 0.15
"""Share of the clips, or of a stretch's states, for val and as much for test."""
USUAL = ((2, 0.5), (1, 0.4))
"""Windows that a held-out block holds at least, and the share of the stretch that must be left for train."""
LEAST = ((1, 0.0),)


@dataclass(frozen=True)
class ClipStates:
    """What splitting needs to know of a clip: its hash, and per state (N,) the number of its unbroken stretch."""

    sha256: str
    segments: np.ndarray


@dataclass(frozen=True)
class Division:
    """`by` clip or time; `labels[clip]` (N,) holds TRAIN, VAL, TEST or GAP per state."""

    by: str
    labels: list[np.ndarray]


def divide(clips: Sequence[ClipStates], context: int, sampling: Sampling) -> Division:
    """Split the states of `clips` into parts that each hold a window of context + 1 states.

    By time, stretches too short to divide train whole; if all are, whole clips are held out, and with fewer than three
    of those the longest stretch is divided as well as it can be. Raises DataError where nothing of that can be done.
    """
    longest = [max((b - a for a, b in stretches(clip.segments)), default=0) for clip in clips]
    able = {clip.sha256 for clip, states in zip(clips, longest, strict=True) if states > context}
    if len(clips) >= BY_CLIP_FROM and len(able) >= 3:
        return _by_clip(clips, able)
    for choices in (USUAL, LEAST):
        labels = [_by_time(clip.segments, context, choices) for clip in clips]
        if any((each == VAL).any() for each in labels):
            return Division("time", labels)
        if len(able) >= 3:
            return _by_clip(clips, able)
    raise _too_short(max(longest, default=0), context, sampling)


def stretches(segments: np.ndarray) -> list[tuple[int, int]]:
    """[first, last) of every run of equal numbers in `segments` (N,)."""
    if not len(segments):
        return []
    edges = [0, *(np.flatnonzero(np.diff(segments)) + 1).tolist(), len(segments)]
    return list(pairwise(edges))


def _by_clip(clips: Sequence[ClipStates], able: set[str]) -> Division:
    """Each clip where its own hash puts it; a part without a clip that holds a window gets the nearest one."""
    place = {c.sha256: int(hashlib.sha256(f"split {c.sha256}".encode()).hexdigest()[:12], 16) / 16**12 for c in clips}
    part = {sha: TEST if at >= 1 - HELD_OUT else VAL if at >= 1 - 2 * HELD_OUT else TRAIN for sha, at in place.items()}
    for needed in (TEST, VAL, TRAIN):
        holders = Counter(part[sha] for sha in able)
        if not holders[needed]:
            giver = holders.most_common(1)[0][0]
            by_place = sorted((sha for sha in able if part[sha] == giver), key=lambda sha: (place[sha], sha))
            part[by_place[-1] if needed > giver else by_place[0]] = needed
    return Division("clip", [np.full(len(clip.segments), part[clip.sha256]) for clip in clips])


def _by_time(segments: np.ndarray, context: int, choices: Sequence[tuple[int, float]]) -> np.ndarray:
    """Labels (N,) of one clip."""
    labels = np.full(len(segments), TRAIN)
    for first, last in stretches(segments):
        held = _held_states(last - first, context, choices)
        if held:
            gap = context + 1
            labels[last - held : last] = TEST
            labels[last - held - gap : last - held] = GAP
            labels[last - 2 * held - gap : last - held - gap] = VAL
            labels[last - 2 * held - 2 * gap : last - 2 * held - gap] = GAP
    return labels


def _held_states(states: int, context: int, choices: Sequence[tuple[int, float]]) -> int:
    """States for val, and as many for test, of a stretch of `states`; 0 where it is too short to divide."""
    for windows, share in choices:
        held = max(int(states * HELD_OUT), windows * context + 1)
        left = states - 2 * held - 2 * (context + 1)
        if left >= max(context + 1, share * states):
            return held
    return 0


def _too_short(states: int, context: int, sampling: Sampling) -> DataError:
    needed = 5 * (context + 1)  # three windows and two gaps
    message = (
        f"no clip is long enough to train, validate and test on: the longest stretch gives {states} states, and "
        f"windows of {context} + 1 with gaps between the splits take {needed}"
    )
    hints = []
    if states >= 10:
        hints.append(f"--context {states // 5 - 1}")
    if states and sampling.interval is not None:
        hints.append(f"--interval {0.95 * sampling.interval * states / needed:.2g}")
    elif states and sampling.every and sampling.every * states >= needed:
        hints.append(f"--every {sampling.every * states // needed}")
    return DataError(message, ", or ".join([*hints, "longer clips, or at least three of them"]))
