"""Validation: how far predictions are from the truth on held-out windows, beside predictors that need no network.

loss = mean over windows and positions of distance(predicted, true). The windows are gathered once; every validation
draws the same random numbers, so that its losses compare weights and nothing else.
"""

# W windows, T positions

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ebwm_cli.data.loader import as_states, spread
from ebwm_cli.data.store import Split
from ebwm_cli.errors import DataError
from ebwm_cli.model.references import Reference, References
from ebwm_cli.model.state_space import StateSpace
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.world.observing import ObservingWorld
from ebwm_cli.world.update import step_generator

POSITIONS_AT_ONCE = 1024
NUMBERS_AT_ONCE = 1 << 24
"""Candidates that descend together, and the numbers in them: bounds memory, changes no number."""
REFERENCE_NUMBERS = 1 << 26
"""Numbers of training states that predictors which need no network are fitted to, at most."""


def windows_at_once(context: int, samples: int, state_dim: int) -> int:
    """Windows of `context` predictions of `samples` candidates each that may be thought about together."""
    candidates = context * samples
    return max(1, min(POSITIONS_AT_ONCE // candidates, NUMBERS_AT_ONCE // (candidates * state_dim)))


@dataclass(frozen=True)
class HeldOutScore:
    """Means over all positions of all windows."""

    loss: float
    energy_start: float
    energy_final: float


def references_of(space: StateSpace, training: Split) -> References:
    """The predictors that need no network, fitted to the first training states."""
    states = training.states
    count = REFERENCE_NUMBERS // max(1, states[:1].size)
    return space.references(as_states(states[:count]))


class HeldOutWindows:
    """At most `most` windows of a split, evenly spread over it, on `device`."""

    def __init__(self, split: Split, context: int, most: int, device: torch.device) -> None:
        starts = split.windows(context)
        if not len(starts):
            raise DataError(
                f"the {split.name} split holds no window of {context} + 1 states, so nothing could tell a good model",
                f"data.context={max(1, context // 2)}, or ebwm prepare video with more or longer clips",
            )
        rows = spread(starts, most)[:, None] + np.arange(context + 1)
        self._states = as_states(split.states[rows]).to(device)  # (W, T+1, ...)

    @torch.no_grad()
    def loss_of(self, reference: Reference) -> float:
        """Loss of a predictor that needs no network."""
        return float(reference.loss(self._states[:, :-1], self._states[:, 1:]).double().mean())

    def some(self, predictions: int, state_dim: int) -> tuple[Tensor, ...]:
        """Windows (B, T+1, ...) evenly spread, as many as make so many predictions, in as many parts as memory asks
        for."""
        context = self._states.shape[1] - 1
        rows = torch.from_numpy(spread(np.arange(len(self._states)), max(1, predictions // context)))
        return self._states[rows.to(self._states.device)].split(windows_at_once(context, 1, state_dim))

    @torch.no_grad()
    def score(
        self, world: ObservingWorld, think: ThinkSection, seed: int, abandon: Callable[[], bool] = lambda: False
    ) -> HeldOutScore | None:
        """Think about every window; None as soon as `abandon()` says so."""
        rng = step_generator(seed, -1)
        at_once = windows_at_once(self._states.shape[1] - 1, think.samples, world.spec.state_dim)
        sums = torch.zeros(3, dtype=torch.float64, device="cpu")
        for states in self._states.split(at_once):
            if abandon():
                return None
            prediction = world.predict(world.observe(states[:, :-1]), think, rng)
            error = world.space.distance(prediction.state, states[:, 1:])
            each = (error, prediction.energies[..., 0], prediction.energies[..., -1])  # (B, T)
            sums += torch.stack([value.float().sum() for value in each]).cpu().double()
        loss, energy_start, energy_final = (sums / (len(self._states) * (self._states.shape[1] - 1))).tolist()
        return HeldOutScore(loss, energy_start, energy_final)
