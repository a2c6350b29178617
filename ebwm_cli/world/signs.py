"""What an energy-based world knows after a context before it predicts: what its level is read from."""

# B batch, P predicted positions

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ebwm_cli.model.level import MOVES, FirstMoves, Signs
from ebwm_cli.sampler.descent import Trajectory, descend
from ebwm_cli.world.observing import Memory

if TYPE_CHECKING:
    from ebwm_cli.world.energy import EnergyWorld


@torch.no_grad()
def signs_after(world: EnergyWorld, memory: Memory, count: int, cooling: float, run: Trajectory | None = None) -> Signs:
    """Signs (B, P, ...) after the last `count` states. The first moves from the state space's own start, shortened by
    `cooling`, are read off a `run` whose first samples made them, or made now."""
    start = world.own_start(memory, count)
    said = memory.kept.hidden[:, -count:].to(world.network.head.weight.dtype)
    if run is None:
        run = descend(
            world.landscapes(memory.kept),
            start,
            steps=MOVES,
            step_size=world.step_size,
            step_scale=world.training_scale(),
            anchor=world.anchor,
            cooling=cooling,
            keep_after=MOVES,
            gradient_clamp=world.model.descent.gradient_clamp,
            geometry=world.space,
        )
    lengths = run.moves[:, :count, :MOVES].square() * (start.shape[-1] / 2)
    first = FirstMoves(run.energies[:, :count, : MOVES + 1], lengths)
    assert run.kept is not None
    kept = run.kept[:, :count]
    tried, clues = world.space.clues_tried(kept), clues_after(world, memory)[:, -count:]
    return Signs(said, torch.cat([tried, clues.to(tried)], -1), world.space.point(kept), first)


def clues_after(world: EnergyWorld, memory: Memory) -> Tensor:
    """Of the state space (B, T, C), after each state."""
    return world.space.clues(memory.states, lambda: world.own_start(memory, memory.length))


def first_moves_counted(run: Trajectory, count: int) -> Trajectory:
    """A `run` with what first moves from `count` positions cost on top, where they were made beside it."""
    one = torch.zeros_like(run.looks)
    one[:, :count] = 1
    return replace(run, looks=run.looks + MOVES * one, tries=run.tries + one)
