"""Held-out windows in pairs, so that one can be held against another, and the words that say how a number came about.

Window i goes with window i + W/2, or with one of another clip or document where that one is from the same. Knows no
world: it cuts states out of a split and counts positions.
"""

# W windows, C context, S predictions per window, B batch

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ebwm_cli.data.loader import as_states, spread
from ebwm_cli.errors import DataError
from ebwm_cli.run.checkpoint import LoadedWorld
from ebwm_cli.run.measure import Floats, HeldOut, device_of, held_out_batches

NO_SCORE = "no score: it predicts in one pass and judges nothing"


@dataclass(frozen=True)
class Pairs:
    """Held-out windows, and for each another one to hold it against."""

    starts: NDArray[np.int64]
    """First state of each window, (W,)."""
    others: NDArray[np.int64]
    """First state of its other, (W,)."""
    foreign: float
    """Share of pairs whose two windows are from different clips or documents."""


def pair_windows(held_out: HeldOut, context: int) -> Pairs:
    """Pair window i with window i + W/2, or where that is from the same clip or document with one from elsewhere, if
    there is any. Raises DataError where there are no two windows."""
    split = held_out.split
    starts = spread(split.windows(context, held_out.stride), held_out.most)
    if len(starts) < 2:
        raise DataError(
            f"the {split.name} split holds {len(starts)} windows of {context} + 1 states; 2 are needed, to hold one "
            "against the other",
            f"ebwm prepare video (or text) --src DIR --context {max(1, context // 2)}, or a longer DIR",
        )
    sources = split.sources(starts)
    other = partners(sources)
    return Pairs(starts, starts[other], float((sources[other] != sources).mean()))


def partners(sources: NDArray[np.int64]) -> NDArray[np.int64]:
    """Another item for each of `sources` (W,): half the list further on, if possible of another source."""
    own = np.arange(len(sources))
    other = (own + len(sources) // 2) % len(sources)
    for source in np.unique(sources[sources[other] == sources]):
        stuck = np.flatnonzero((sources == source) & (sources[other] == source))
        elsewhere = np.flatnonzero(sources != source)
        if len(elsewhere):
            other[stuck] = elsewhere[np.arange(len(stuck)) % len(elsewhere)]
    return other


def paired_batches(
    loaded: LoadedWorld, held_out: HeldOut, pairs: Pairs, samples: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows in order and the others they are paired with, (B, C+1, ...) each, as many as memory allows."""
    done = 0
    for states in held_out_batches(loaded, held_out, samples):
        starts = pairs.others[done : done + len(states)]
        rows = starts[:, None] + np.arange(states.shape[1])
        yield states, as_states(held_out.split.states[rows]).to(device_of(loaded))
        done += len(states)


def origin(pairs: Pairs) -> str:
    """Where another window is from, in words."""
    if pairs.foreign == 1:
        return "another clip or document"
    if pairs.foreign == 0:
        return "another window of the same clip or document"
    return f"another window ({pairs.foreign:.0%} from another clip or document)"


def positions(values: Floats) -> str:
    """How many there are, in words."""
    return counted(values.size, "position")


def counted(count: int, what: str) -> str:
    """1 step, 2 steps."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def defined(value: float) -> float | None:
    """None for what is no finite number."""
    return value if math.isfinite(value) else None
