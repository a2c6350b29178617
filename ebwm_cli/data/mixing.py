"""Mixing windows: more data from little, for states that live in a linear space.

x <- cos(theta) * x_i + sin(theta) * x_j, theta uniform in [0, 2 pi) per window: a cross-fade of two clips, or of their
negatives, that keeps the variance of the states (mixup, arXiv 1710.09412, without its shrinking). Principal components
are linear in the pixels, so what follows in the mix is the mix of what follows. Most partners are frozen at their first
state: then one scene moves, more or less, before the sight of another, and what moves little is seen to. It must not
know models.
"""

# B batch, C context, D state size

from __future__ import annotations

import numpy as np

FROZEN = 0.75
"""Share of partners that stand still."""


def mix_windows(states: np.ndarray, seed: int, step: int, frozen: float = FROZEN) -> np.ndarray:
    """Mix each window of `states` (B, C+1, D) float32 with another of its batch, a pure function of (seed, step)."""
    stream = np.random.Philox(key=np.array([seed, step], dtype=np.uint64)).jumped()  # not the one that orders epochs
    rng = np.random.Generator(stream)
    angle = rng.uniform(0, 2 * np.pi, (len(states), 1, 1)).astype(np.float32)
    partner = states[rng.permutation(len(states))]
    still = rng.random((len(states), 1, 1)) < frozen
    return np.cos(angle) * states + np.sin(angle) * np.where(still, partner[:, :1], partner)
