"""One lesson: some positions of some windows descend, and the loss of where they arrive is differentiated.

loss = share * (mean over trained steps of distance(y_k, x) + what the energies should mean). Steps are learned one by
one, each dropped as soon as it is differentiated, or all at once where the recipe unrolls them. Knows no batch and no
optimizer.
"""

# B batch, T positions, D state size

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ebwm_cli.model.ebt import EnergyTransformer
from ebwm_cli.model.state_space import gaussian
from ebwm_cli.model.trunk import Memory as TrunkMemory
from ebwm_cli.recipe.model import EbtSection
from ebwm_cli.sampler.descent import EnergyFn, anchored, descend
from ebwm_cli.sampler.schedule import draw_step_scale
from ebwm_cli.world.energies import energy_terms
from ebwm_cli.world.gradient import RunningLoss


class Descending(Protocol):
    """What is learned: an energy in a state space."""

    model: EbtSection
    space: Any  # a StateSpace
    network: EnergyTransformer

    def landscapes(self, trunk: TrunkMemory) -> list[EnergyFn]: ...

    def training_scale(self) -> float | Tensor: ...


@dataclass(frozen=True)
class Lesson:
    """What is learned at once."""

    context: Tensor  # (B, T, ...) the last T states that `trunk` remembers
    target: Tensor  # (B, T, ...) those after them
    trunk: TrunkMemory
    held: Tensor | None  # (B, T, D) where to start from, nan where not from there
    free: int  # descent steps without loss before the trained ones
    steps: int
    step_size: Tensor
    share: float  # of the whole loss


def learn(world: Descending, lesson: Lesson, running: RunningLoss, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Add the lesson's share of the loss to `running`; returns mean energies at the start and before the last move,
    (2,), and where descents arrived, (B, T, D), detached."""
    rules, space, target = world.model.descent, world.space, lesson.target
    origin = space.start(lesson.context, lesson.trunk.hidden[:, -target.shape[1] :], rng)  # (B, T, D)
    if space.forecasts:  # the forecast has a loss of its own
        running.add(lesson.share * space.distance(origin, target).mean())
        origin = origin.detach()
    if not lesson.steps:
        return torch.zeros(2, device=target.device), origin
    start = origin
    if world.model.start_noise:
        start = start + world.model.start_noise * gaussian(start.shape, rng, start)
    if lesson.held is not None:
        start = torch.where(lesson.held.isnan(), start, lesson.held)
    scale = world.training_scale()
    if rules.step_size_jitter > 1:
        scale = scale * draw_step_scale((*start.shape[:2], 1), rules.step_size_jitter, rng, start.device)
    together: list[Tensor] = []

    def on_move(step: int, candidate: Tensor) -> None:
        last = step + 1 == lesson.free + lesson.steps
        if rules.loss_on == "last" and not last:
            return
        weight = lesson.share / (1 if rules.loss_on == "last" else lesson.steps)
        loss = weight * space.distance(candidate, target).mean()
        together.append(loss) if rules.unroll else running.add(loss)

    shared: dict[str, Any] = {
        "step_scale": scale,
        "anchor": rules.anchor,
        "origin": origin,
        "noise": rules.langevin_noise,
        "rng": rng,
        "gradient_clamp": rules.gradient_clamp,
        "measure": False,
        "geometry": space,
    }
    landscapes, step_size = world.landscapes(lesson.trunk), lesson.step_size
    settled = descend(landscapes, start, steps=lesson.free, step_size=step_size.detach(), **shared)
    trained = descend(
        landscapes,
        settled.final,
        steps=lesson.steps,
        step_size=step_size,
        first_step=lesson.free,
        create_graph=torch.is_grad_enabled(),
        detach=not rules.unroll,
        on_move=on_move,
        **shared,
    )
    if together:
        running.add(torch.stack(together).sum())
    final = trained.final.detach()
    if world.model.energies.any:

        def total(candidate: Tensor) -> Tensor:
            energy = landscapes[-1](space.point(candidate))
            return anchored(energy, candidate, origin, step_size.detach(), rules.anchor, space)

        wanted = world.model.energies
        for term in energy_terms(wanted, space, total, origin=origin, target=target, final=final, rng=rng):
            running.add(lesson.share * term)
    first = settled if lesson.free else trained
    return torch.stack([first.energies[..., 0].mean(), trained.energies[..., -1].mean()]), final
