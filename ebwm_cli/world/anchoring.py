"""Fitting the anchor of thinking: how far descents should come, on windows that no weight has learned from.

Training blurs contexts, mixes windows and starts from noise, so that little is learned by heart; where descents come to
rest by what is learned so is not yet what is best for windows as they are. It differs by a factor, one for a whole set:
most often they should go farther, and less far where a model has learned little. The length of that way is lambda's to
say: without curvature a descent rests at y0 - alpha / lambda * dE/dy, so that a way c times as long takes lambda / c.
One number is fitted, as a temperature is to validation windows (Guo et al., arXiv 1706.04599).
"""

# B windows, T positions, D state size

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.world.energy import EnergyWorld

AT_REST = 16
"""Moves after which a descent has come to rest, but for a little."""
WAYS = (-2.0, 1.0)
"""log2 of how much farther descents may be made to go."""
LAMBDAS = (0.05, 0.95)
"""The anchor is a pull whatever the windows say, and one that doesn't overshoot."""


@torch.no_grad()
def fit_anchor(
    world: EnergyWorld,
    windows: Iterable[Tensor],
    think: ThinkSection,
    rng: torch.Generator,
    abandon: Callable[[], bool] = lambda: False,
) -> bool:
    """Set the pull that thinking goes by, from that of training, to what suits `windows` (B, T+1, ...) best. False,
    changing nothing, as soon as `abandon()` says so."""
    trained = world.model.descent.anchor
    steps = max(think.steps, AT_REST)
    think = think.model_copy(update={"samples": 1, "stop": "fixed", "backtrack": False, "steps": steps})
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    before = world.anchor
    world.set_anchor(trained)
    for states in windows:
        if abandon():
            world.set_anchor(before)
            return False
        run, origin = world.descended(world.observe(states[:, :-1]), think, rng)
        found.append((origin, run.final - origin, states[:, 1:]))

    def loss(way: float) -> float:
        """With descents 2 ** `way` times as long."""
        losses = [world.space.distance(origin + 2**way * moved, target) for origin, moved, target in found]
        return float(torch.cat(losses).double().mean())

    best: Any = minimize_scalar(loss, bounds=WAYS, method="bounded")
    low, high = LAMBDAS
    world.set_anchor(min(max(trained / 2**best.x, low), high))
    return True
