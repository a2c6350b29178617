"""Fitting the level of energies: on predictions that their world makes of windows it has learned from.

What errors are is asked of windows as they are. What energies are is asked of windows as training reads them, mixed and
blurred: more kinds of context, of which there may be few. Nothing is drawn that training draws from.
"""

# B windows, T positions, W width

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ebwm_cli.model.level import FirstMoves
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.sampler.descent import Trajectory
from ebwm_cli.world.energy import EnergyWorld
from ebwm_cli.world.observing import Memory


@torch.no_grad()
def fit_level(
    world: EnergyWorld,
    plain: Iterable[Tensor],
    trained: Iterable[Tensor],
    think: ThinkSection,
    rng: torch.Generator,
    abandon: Callable[[], bool] = lambda: False,
) -> bool:
    """Fit it to predictions, as `think` makes them, of windows (B, T+1, ...): `plain` ones, and those that are mixed as
    training has them, and are blurred here as it does. False, changing nothing, as soon as `abandon()` says so."""
    network, space, think = world.network, world.space, think.model_copy(update={"samples": 1, "stop": "fixed"})
    assert network.level is not None

    def moved(context: Tensor) -> tuple[Memory, FirstMoves, Trajectory]:
        """`context`, observed, and the first moves and the descents after it."""
        memory = world.observe(context)
        run, _ = world.descended(memory, think, rng)
        return memory, world.first_moves(memory, memory.length, run, think), run

    errors: list[tuple[Tensor, ...]] = []
    energies: list[tuple[Tensor, ...]] = []
    for states in plain:
        if abandon():
            return False
        memory, first, run = moved(states[:, :-1])
        clues, ideal = space.clues(memory.states, memory.length), space.ideal_energy(run.final, states[:, 1:])
        errors.append((memory.kept.hidden, clues, first.lengths, ideal))
    for states in trained:
        if abandon():
            return False
        _, first, run = moved(world.blurred(states[:, :-1], rng))
        energies.append((first.facts, run.energies[..., -1]))
    network.level.fit(_joined(errors), _joined(energies), floor=space.numbers * space.alike)
    return True


def _joined(found: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """Each of what was found, (N, ...), of all windows and positions."""
    return [torch.cat([part.flatten(0, 1) for part in parts]) for parts in zip(*found, strict=True)]
