"""Validation: how far predictions are from the truth on held-out windows, beside copying the last state.

loss = mean over windows and positions of distance(predicted, true). The windows are gathered once; every validation
draws the same random numbers, so that its losses compare weights and nothing else.
"""

# W windows, T positions, D state size

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ebwm_cli.data.store import Split
from ebwm_cli.errors import DataError
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.world.energy import EnergyWorld
from ebwm_cli.world.update import step_generator

POSITIONS_AT_ONCE = 1024
"""Candidates that descend together: bounds memory."""


@dataclass(frozen=True)
class HeldOutScore:
    """Means over all positions of all windows."""

    loss: float
    energy_start: float
    energy_final: float


class HeldOutWindows:
    """At most `most` windows of a split, evenly spread over it, on `device`."""

    def __init__(self, split: Split, context: int, most: int, device: torch.device) -> None:
        starts = split.windows(context)
        if not len(starts):
            raise DataError(
                f"the {split.name} split holds no window of {context} + 1 states, so nothing could tell a good model",
                f"data.context={max(1, context // 2)}, or ebwm prepare video with more or longer clips",
            )
        chosen = starts[np.linspace(0, len(starts) - 1, min(most, len(starts))).astype(np.int64)]
        rows = chosen[:, None] + np.arange(context + 1)
        self._states = torch.from_numpy(split.states[rows]).to(device)  # (W, T+1, D)

    @torch.no_grad()
    def copy_last_loss(self, world: EnergyWorld) -> float:
        """Loss of predicting that nothing changes."""
        return float(world.space.distance(self._states[:, :-1], self._states[:, 1:]).double().mean())

    @torch.no_grad()
    def score(
        self, world: EnergyWorld, think: ThinkSection, seed: int, abandon: Callable[[], bool] = lambda: False
    ) -> HeldOutScore | None:
        """Think about every window; None as soon as `abandon()` says so."""
        rng = step_generator(seed, -1)
        at_once = max(1, POSITIONS_AT_ONCE // ((self._states.shape[1] - 1) * think.samples))
        sums = torch.zeros(3, dtype=torch.float64, device="cpu")
        for states in self._states.split(at_once):
            if abandon():
                return None
            prediction = world.predict(world.observe(states[:, :-1]), think, rng)
            error = world.space.distance(prediction.state, states[:, 1:])
            each = (error, prediction.energies[..., 0], prediction.energies[..., -1])  # (B, T)
            sums += torch.stack([value.float().sum() for value in each]).cpu().double()
        loss, energy_start, energy_final = (sums / self._states[:, 1:, 0].numel()).tolist()
        return HeldOutScore(loss, energy_start, energy_final)
