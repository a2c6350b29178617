"""What an energy-based world knows after a context before it predicts: what its level is read from."""

# B batch, P predicted positions

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

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
    assert run.first is not None
    tried = world.space.clues_tried(run.first[:, :count])
    clues = clues_after(world, memory)[:, -count:]
    return Signs(said, torch.cat([tried, clues.to(tried)], -1), first)


def clues_after(world: EnergyWorld, memory: Memory) -> Tensor:
    """Of the state space (B, T, C), after each state."""
    return world.space.clues(memory.states, lambda: world.own_start(memory, memory.length))
