"""What a trainer fits besides weights, in closed form or nearly, whenever it looks at validation windows: how far
thinking goes, and what energies are measured in. Draws nothing that training draws from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ebwm_cli.data.loader import Loader
from ebwm_cli.recipe.schema import Recipe
from ebwm_cli.run.held_out_loss import NUMBERS_AT_ONCE, HeldOutWindows, windows_at_once
from ebwm_cli.world.anchoring import fit_anchor
from ebwm_cli.world.energy import EnergyWorld
from ebwm_cli.world.levelling import fit_level
from ebwm_cli.world.observing import ObservingWorld
from ebwm_cli.world.update import step_generator

LEVEL_PREDICTIONS = 4096
"""Of training windows, that a level is fitted to; more change it little."""
REORDERED = 1 << 14
"""States of training windows whose contexts are read in another order, too; by fewer, what is chance is believed."""
HELD_OUT_PREDICTIONS = 2048
"""Of validation windows, that the anchor of thinking is fitted to, which is one number, and by which it is chosen how
much of what a level is fitted to is believed."""


def anchor_fitted(world: ObservingWorld, recipe: Recipe, held_out: HeldOutWindows, abandon: Callable[[], bool]) -> bool:
    """Fit how far thinking goes, where the recipe has that; whether that was not abandoned."""
    if not isinstance(world, EnergyWorld) or not world.model.descent.anchor_fit:
        return True
    return fit_anchor(world, _some(held_out, world), recipe.think, step_generator(recipe.seed, -3), abandon)


def level_fitted(
    world: ObservingWorld, recipe: Recipe, loader: Loader, held_out: HeldOutWindows, abandon: Callable[[], bool]
) -> bool:
    """Fit what energies after a context are measured in, where the recipe has that; whether that was not abandoned."""
    if not isinstance(world, EnergyWorld) or world.network.level is None:
        return True
    spec, device = world.spec, world.alpha.device
    count = -(-LEVEL_PREDICTIONS // spec.context)
    at_once = windows_at_once(spec.context, 1, spec.state_dim)
    plain = torch.cat(list(loader.plain(count, at_once)))
    others = plain.roll(len(plain) // 2, 0)  # mostly of another clip or document
    pairs = zip(*(windows.to(device).split(at_once) for windows in (plain, others)), strict=True)
    reordered = (states.to(device) for states in loader.plain(REORDERED // spec.context, at_once))
    rng = step_generator(recipe.seed, -2)
    return fit_level(world, pairs, reordered, _some(held_out, world), recipe.think, rng, abandon)


def _some(held_out: HeldOutWindows, world: ObservingWorld) -> tuple[Tensor, ...]:
    """Parts (B, T+1, ...) of so many of them that no memory is too small for all their predictions."""
    state_dim = world.spec.state_dim
    return held_out.some(min(HELD_OUT_PREDICTIONS, NUMBERS_AT_ONCE // state_dim), state_dim)
