"""Fitting the level of energies: on predictions that their world makes of windows it has learned from.

What errors are is asked of windows as they are. What energies are is asked of windows as training reads them, mixed and
blurred: more kinds of context, of which there may be few. Nothing is drawn that training draws from.
"""

# B windows, T positions, W width

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.world.costs import first_move_is_made
from ebwm_cli.world.energy import EnergyWorld


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
    errors: list[tuple[Tensor, ...]] = []
    energies: list[tuple[Tensor, ...]] = []
    for states in plain:
        if abandon():
            return False
        memory = world.observe(states[:, :-1])
        run, _ = world.descended(memory, think, rng)
        errors.append((memory.kept.hidden, space.ideal_energy(run.final, states[:, 1:])))
    for states in trained:
        if abandon():
            return False
        memory = world.observe(world.blurred(states[:, :-1], rng))
        run, _ = world.descended(memory, think, rng)
        made = run if first_move_is_made(world.model, think) else None
        first = world.first_energies(memory, memory.length, made)
        energies.append((memory.kept.hidden, first, run.energies[..., -1]))
    said, ideal = _joined(errors)
    blurred, first, ended = _joined(energies)
    network.level.fit((said, ideal), (blurred, first, ended), floor=space.numbers * space.alike)
    return True


def _joined(found: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Each of what was found, (N, ...), of all windows and positions."""
    return tuple(torch.cat([part.flatten(0, 1) for part in parts]) for parts in zip(*found, strict=True))
