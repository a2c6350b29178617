"""What an energy-based world knows after a context before it predicts: what its level is read from."""

# B batch, P predicted positions

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ebwm_cli.model.level import MOVES, FirstMoves, Signs
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.sampler.descent import Trajectory, cooled, descend
from ebwm_cli.world.costs import first_moves_are_made
from ebwm_cli.world.observing import Memory

if TYPE_CHECKING:
    from ebwm_cli.world.energy import EnergyWorld


@torch.no_grad()
def signs_after(
    world: EnergyWorld, memory: Memory, count: int, run: Trajectory | None = None, think: ThinkSection | None = None
) -> Signs:
    """Signs (B, P, ...) after the last `count` states. The first whole moves from the state space's own start are read
    off a `run` that thought so, if its first samples made them, or made now."""
    start = world.own_start(memory, count)
    said = memory.kept.hidden[:, -count:].to(world.network.head.weight.dtype)
    clues = world.space.clues(memory.states, start)
    cooling = 0.0
    if run is not None and think is not None and first_moves_are_made(world.model, think):
        cooling = think.cooling
    else:
        run = descend(
            world.landscapes(memory.kept),
            start,
            steps=MOVES,
            step_size=world.step_size,
            step_scale=world.training_scale(),
            anchor=world.anchor,
            gradient_clamp=world.model.descent.gradient_clamp,
            geometry=world.space,
        )
    sizes = torch.stack([run.moves[:, :count, step] / cooled(cooling, step) for step in range(MOVES)], -1)
    first = FirstMoves(run.energies[:, :count, 1], sizes.square() * (start.shape[-1] / 2))
    return Signs(said, clues, first)
