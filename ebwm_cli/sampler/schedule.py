"""Draws that vary a descent in training: how many steps, how long each.

Counts are uniform integers; step sizes are alpha * j^u with u uniform in [-1, 1]. Knows no candidate and no energy.
"""

from __future__ import annotations

import torch
from torch import Tensor


def draw_count(low: int, high: int, rng: torch.Generator) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=rng, device=rng.device))


def draw_step_scale(shape: tuple[int, ...], jitter: float, rng: torch.Generator, device: torch.device) -> Tensor:
    """Factors for the step size per position, log-uniform in [1/jitter, jitter]."""
    exponent = torch.rand(shape, generator=rng, device=rng.device).mul(2).sub(1)  # u in [-1, 1)
    return jitter ** exponent.to(device)
