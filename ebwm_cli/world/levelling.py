"""Fitting the level of energies: on predictions that their world makes of windows it has learned from, and of some that
it has not, which say how much of that holds elsewhere.

Windows are looked at as they are, not mixed and blurred as training has them. False are next states of another window,
those two steps ahead, near misses, and true ones after a context in another order, of which more are looked at, as that
costs little. Nothing is drawn that training draws from.
"""

# B windows, T positions, W width

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from ebwm_cli.model.level import Seen, Signs
from ebwm_cli.model.state_space import differ
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.sampler.descent import Trajectory
from ebwm_cli.world.costs import first_moves_are_made
from ebwm_cli.world.energy import EnergyWorld
from ebwm_cli.world.false_states import shuffle, states_from_elsewhere
from ebwm_cli.world.observing import Memory
from ebwm_cli.world.signs import clues_after, signs_after

MISSED_BY = 0.3
"""How wrong near misses are, as `StateSpace.near_miss` has it."""
NEAR, ORDER = "near", "order"


@torch.no_grad()
def fit_level(
    world: EnergyWorld,
    plain: Iterable[tuple[Tensor, Tensor]],
    reordered: Iterable[Tensor],
    held_out: Iterable[Tensor],
    think: ThinkSection,
    rng: torch.Generator,
    abandon: Callable[[], bool] = lambda: False,
) -> bool:
    """Fit it to predictions, as `think` makes them, of windows (B, T+1, ...): `plain` ones, each with another of its
    size; those whose contexts are `reordered` here; and `held_out` ones, which nothing was learned from. False,
    changing nothing, as soon as `abandon()` says so."""
    network, space, think = world.network, world.space, think.model_copy(update={"samples": 1, "stop": "fixed"})
    assert network.level is not None
    made = first_moves_are_made(world.model, think)

    def predicted(states: Tensor) -> tuple[Memory, Signs, Trajectory, Seen]:
        context, truth = states[:, :-1], states[:, 1:]
        memory = world.observe(context)
        run, _ = world.descended(memory, think, rng)
        signs = signs_after(world, memory, memory.length, think.cooling, run if made else None)
        everywhere = torch.ones(truth.shape[:2], dtype=torch.bool, device=truth.device)
        ideal, point = space.ideal_energy(run.final, truth), space.point(run.final)
        return memory, signs, run, Seen(signs.at(everywhere), ideal.flatten(), point.flatten(0, 1))

    errors: list[Seen] = []
    true: list[Seen] = []
    false: dict[str, list[Seen]] = defaultdict(list)
    ended: list[Tensor] = []
    for states, others in plain:
        if abandon():
            return False
        memory, signs, run, seen = predicted(states)
        errors.append(seen)
        ended.append(run.energies[..., -1].flatten())
        truth = space.certain(states[:, 1:])
        true.append(Seen(seen.signs, world.total(truth, memory).flatten(), space.point(truth).flatten(0, 1)))
        for kind, candidate, where in _false_states(world, states, others, rng):
            energy, point = world.total(candidate, memory), space.point(candidate)
            false[kind].append(Seen(signs.at(where), energy[where], point[where]))
    contexts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for states in reordered:
        if abandon():
            return False
        told, seen = _reordered(world, states, think.cooling, rng)
        for clues, part in zip(told, contexts, strict=True):
            part.append(clues)
        false[ORDER].append(seen)
    unlearned: list[Seen] = []
    for states in held_out:
        if abandon():
            return False
        unlearned.append(predicted(states)[-1])
    network.level.fit(
        Seen.joined(errors),
        Seen.joined(unlearned),
        torch.cat(ended),
        Seen.joined(true),
        [Seen.joined(kind) for kind in false.values()],
        (torch.cat(contexts[0]), torch.cat(contexts[1])),
        floor=space.numbers * space.alike,
        cooling=think.cooling,
    )
    return True


def _false_states(
    world: EnergyWorld, states: Tensor, others: Tensor, rng: torch.Generator
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """False next states (B, T, D) after the contexts of windows (B, T+1, ...), a kind at a time, and where (B, T) they
    are."""
    truth = states[:, 1:]
    yield from states_from_elsewhere(world.space, states, others)
    yield (
        NEAR,
        world.space.near_miss(truth, rng, MISSED_BY),
        torch.ones(truth.shape[:2], dtype=torch.bool, device=truth.device),
    )


def _reordered(world: EnergyWorld, states: Tensor, cooling: float, rng: torch.Generator) -> tuple[list[Tensor], Seen]:
    """Of windows (B, T+1, ...) all clues (N, C) that are known after their contexts as they are, and in an order of
    each window's own; and the last states after the latter."""
    context = states[:, :-1]
    order = torch.rand(context.shape[:2], generator=rng, device=rng.device).argsort(1).to(context.device)
    shuffled = shuffle(context, order)
    memories = [world.observe(each) for each in (context, shuffled)]
    told = [clues_after(world, memory) for memory in memories]
    where = differ(shuffled, context).any(1, keepdim=True)
    truth = world.space.certain(states[:, -1:])
    energy, point = world.total(truth, memories[1]), world.space.point(truth)
    seen = Seen(signs_after(world, memories[1], 1, cooling).at(where), energy[where], point[where])
    return [clues[~clues.isnan().any(-1)] for clues in told], seen
