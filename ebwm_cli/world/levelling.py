"""Fitting the level of energies: on predictions that their world makes of windows it has learned from.

What errors are, and how high true and false next states lie, is asked of windows as they are. What energies are is
asked of windows as training reads them, mixed and blurred: more kinds of context, of which there may be few. False are
next states of another window, those two steps ahead, near misses, and true ones after a context in another order, of
which more are looked at, as that costs little. Nothing is drawn that training draws from.
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
    trained: Iterable[Tensor],
    reordered: Iterable[Tensor],
    think: ThinkSection,
    rng: torch.Generator,
    abandon: Callable[[], bool] = lambda: False,
) -> bool:
    """Fit it to predictions, as `think` makes them, of windows (B, T+1, ...): `plain` ones, each with another of its
    size; those that are mixed as training has them, and are blurred here as it does; and those whose contexts are
    `reordered` here. False, changing nothing, as soon as `abandon()` says so."""
    network, space, think = world.network, world.space, think.model_copy(update={"samples": 1, "stop": "fixed"})
    assert network.level is not None

    def moved(context: Tensor) -> tuple[Memory, Signs, Trajectory]:
        """`context`, observed, and the signs and the descents after it."""
        memory = world.observe(context)
        run, _ = world.descended(memory, think, rng)
        return memory, signs_after(world, memory, memory.length, run, think), run

    errors: list[Seen] = []
    true: list[Seen] = []
    false: dict[str, list[Seen]] = defaultdict(list)
    ended: list[tuple[Tensor, Tensor]] = []
    for states, others in plain:
        if abandon():
            return False
        context, truth = states[:, :-1], states[:, 1:]
        memory, signs, run = moved(context)
        everywhere = torch.ones(truth.shape[:2], dtype=torch.bool, device=truth.device)
        here = signs.at(everywhere)
        errors.append(Seen(here, space.ideal_energy(run.final, truth)[everywhere]))
        true.append(Seen(here, world.total(space.certain(truth), memory)[everywhere]))
        for kind, candidate, where in _false_states(world, states, others, rng):
            false[kind].append(Seen(signs.at(where), world.total(candidate, memory)[where]))
    contexts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for states in reordered:
        if abandon():
            return False
        told, seen = _reordered(world, states, rng)
        for clues, part in zip(told, contexts, strict=True):
            part.append(clues)
        false[ORDER].append(seen)
    for states in trained:
        if abandon():
            return False
        _, signs, run = moved(world.blurred(states[:, :-1], rng))
        ended.append((signs.first.facts.flatten(0, 1), run.energies[..., -1].flatten()))
    facts, energies = (torch.cat(parts) for parts in zip(*ended, strict=True))
    network.level.fit(
        Seen.joined(errors),
        (facts, energies),
        Seen.joined(true),
        [Seen.joined(kind) for kind in false.values()],
        (torch.cat(contexts[0]), torch.cat(contexts[1])),
        floor=space.numbers * space.alike,
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


def _reordered(world: EnergyWorld, states: Tensor, rng: torch.Generator) -> tuple[list[Tensor], Seen]:
    """Of windows (B, T+1, ...) all clues (N, C) that are known after their contexts as they are, and in an order of
    each window's own; and the last states after the latter."""
    context = states[:, :-1]
    order = torch.rand(context.shape[:2], generator=rng).argsort(1).to(context.device)
    shuffled = shuffle(context, order)
    memories = [world.observe(each) for each in (context, shuffled)]
    told = [clues_after(world, memory) for memory in memories]
    where = differ(shuffled, context).any(1, keepdim=True)
    energy = world.total(world.space.certain(states[:, -1:]), memories[1])
    seen = Seen(signs_after(world, memories[1], 1).at(where), energy[where])
    return [clues[~clues.isnan().any(-1)] for clues in told], seen
