"""Descent: y <- y - alpha * dE/dy - lambda * (y - y0) + sigma * eps. Knows no network.

It moves candidates downhill on the total energy E(y) + kappa * D(y, y0), kappa = lambda / alpha, D the Bregman
divergence of the candidate's geometry. lambda = 0 is the published form (EBWM, arXiv 2406.08862), whose energy may
fall for ever; lambda > 0 anchors it at the start, so that descent has somewhere to arrive.
"""

# B batch, T' candidate positions, D state size, K descent steps

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

EnergyFn = Callable[[Tensor], Tensor]
"""energy_fn(point (B, T', D)) -> (B, T')."""

Landscapes = EnergyFn | Sequence[EnergyFn]
"""One energy for all descent steps, or one per step, the last serving all later ones."""


class Geometry(Protocol):
    """How a candidate lies in the space its energy is defined on. Latents are their own point; logits z lie at
    softmax(z), where moving z by the gradient at the point is mirror descent."""

    def point(self, candidate: Tensor) -> Tensor:
        """Where the energy is evaluated and differentiated."""
        ...

    def move(self, candidate: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        """The candidate after a move of `length`, a number or (B, T', 1), against the gradient at its point."""
        ...

    def divergence(self, candidate: Tensor, start: Tensor) -> Tensor:
        """D(candidate, start), (B, T')."""
        ...


class Euclidean:
    """y is its own point; D = |y - y0|^2 / 2."""

    def point(self, candidate: Tensor) -> Tensor:
        return candidate

    def move(self, candidate: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        return candidate - length * gradient

    def divergence(self, candidate: Tensor, start: Tensor) -> Tensor:
        return (candidate - start).square().sum(-1) / 2


EUCLIDEAN = Euclidean()


@dataclass(frozen=True)
class Trajectory:
    """A whole descent, and what it cost (`looks`, `tries`). A position that stopped early keeps its candidate, repeats
    its energy and moves by 0."""

    start: Tensor  # (B, T', D)
    final: Tensor  # (B, T', D)
    energies: Tensor  # (B, T', K+1) total energies, start .. final; unless measured, before the first and the last move
    moves: Tensor  # (B, T', K) root mean square of each move; (B, T', 0) unless measured
    steps_used: Tensor  # (B, T') int64
    path: Tensor | None  # (B, T', K+1, D) candidates, where recorded
    looks: Tensor  # (B, T') int64 energies that were computed and differentiated
    tries: Tensor  # (B, T') int64 energies that were only computed
    kept: Tensor | None = None  # (B, T', D) after as many moves as were asked for


def landscape_at(energy_fn: Landscapes, step: int) -> EnergyFn:
    """The energy function of descent step `step`, counted from 0."""
    return energy_fn[min(step, len(energy_fn) - 1)] if isinstance(energy_fn, Sequence) else energy_fn


def total_energy(
    energy_fn: Landscapes,
    candidate: Tensor,
    origin: Tensor,
    *,
    step: int,
    step_size: float | Tensor,
    anchor: float = 0.0,
    geometry: Geometry = EUCLIDEAN,
) -> Tensor:
    """E(candidate) + (lambda / alpha) * D(candidate, origin), (B, T'), without a graph."""
    with torch.no_grad():
        return anchored(
            landscape_at(energy_fn, step)(geometry.point(candidate)), candidate, origin, step_size, anchor, geometry
        )


def anchored(
    energy: Tensor, candidate: Tensor, origin: Tensor, step_size: float | Tensor, anchor: float, geometry: Geometry
) -> Tensor:
    """E + (lambda / alpha) * D(candidate, origin), (B, T')."""
    if not anchor:
        return energy
    return energy + anchor / step_size * geometry.divergence(candidate, origin)


def look(
    energy_fn: EnergyFn, candidate: Tensor, geometry: Geometry = EUCLIDEAN, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Energies (B, T') of candidates (B, T', D), detached, and their gradient at the candidates' points."""
    with torch.set_grad_enabled(create_graph):
        point = geometry.point(candidate)  # where it has parameters of its own, they are learned through it
    with torch.enable_grad():
        if not point.requires_grad:
            point = point.detach().requires_grad_()
        energy = energy_fn(point)  # (B, T')
        # Summed, never averaged: the gradient at a position is its own, whatever the batch.
        (gradient,) = torch.autograd.grad(energy.sum(), point, create_graph=create_graph)
    return energy.detach(), gradient


def moved_by(
    candidate: Tensor,
    gradient: Tensor,
    origin: Tensor,
    *,
    step_size: float | Tensor,
    step_scale: float | Tensor,
    anchor: float,
    gradient_clamp: float,
    geometry: Geometry,
) -> Tensor:
    """Candidates (B, T', D) after one move against `gradient`, which is clamped to a norm, and back to `origin`."""
    if gradient_clamp:
        norm = gradient.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        gradient = gradient * (gradient_clamp / norm).clamp_max(1.0)
    moved = geometry.move(candidate, gradient, step_scale * step_size)  # y <- y - alpha * dE/dy ...
    if anchor:
        moved.sub_((candidate - origin).mul_(step_scale * anchor))  # ... - lambda * (y - y0)
    return moved


def cooled(cooling: float, step: int) -> float:
    """What move `step`, from 0, is shortened by, 1 / (1 + cooling * step). Moves fall to 0 and their sum doesn't: a
    descent still gets to the bottom, and doesn't jump over it for ever (Robbins and Monro, 1951)."""
    return 1 / (1 + cooling * step)


def move_size(before: Tensor, after: Tensor) -> Tensor:
    """Root mean square (B, T') of a move."""
    return torch.linalg.vector_norm((after - before).detach(), dim=-1) / math.sqrt(before.shape[-1])


def descend(
    energy_fn: Landscapes,
    start: Tensor,
    *,
    steps: int,
    step_size: float | Tensor,
    step_scale: float | Tensor = 1.0,
    anchor: float = 0.0,
    origin: Tensor | None = None,
    first_step: int = 0,
    cooling: float = 0.0,
    noise: float = 0.0,
    rng: torch.Generator | None = None,
    gradient_clamp: float = 0.0,
    record: bool = False,
    keep_after: int = 0,
    measure: bool = True,
    create_graph: bool = False,
    detach: bool = True,
    on_move: Callable[[int, Tensor], None] | None = None,
    geometry: Geometry = EUCLIDEAN,
) -> Trajectory:
    """Move candidates downhill from `start` (B, T', D) for `steps` moves. Where each may stop by itself, `settle`.

    `step_size` is alpha, a number or a scalar tensor (learned); `step_scale` (B, T', 1) lengthens or shortens whole
    moves per position, and `cooling` makes them ever shorter, the total energy staying the same. `origin` is what the
    anchor pulls to, by default the start; `first_step` counts the moves of an earlier descent that this one continues.
    `keep_after`: of how many moves the candidates are `kept`, 0 for none.
    Without `measure` total energies are known before the first and before the last move alone, and no sizes of moves.
    `create_graph` makes moves differentiable with respect to the energy's weights; `detach` cuts the graph between
    moves, without it gradients flow through the whole descent. `on_move` sees the number of each move, and where it
    led, before the next is computed, so that training can backpropagate and drop it at once.
    """
    origin = start if origin is None else origin
    current, pull = start, 0.0 if start is origin else anchor  # nothing is pulled to where it is
    kept: Tensor | None = None
    energies: list[Tensor] = []
    sizes: list[Tensor] = []
    path = [start.detach()]
    for step in range(first_step, first_step + steps):
        if detach:
            current = current.detach()
        energy, gradient = look(landscape_at(energy_fn, step), current, geometry, create_graph)
        if measure or step in (first_step, first_step + steps - 1):
            with torch.no_grad():
                energies.append(anchored(energy, current, origin, step_size, pull, geometry))
        with torch.set_grad_enabled(create_graph):
            moved = moved_by(
                current,
                gradient,
                origin,
                step_size=step_size,
                step_scale=step_scale * cooled(cooling, step),
                anchor=pull,
                gradient_clamp=gradient_clamp,
                geometry=geometry,
            )
            if measure:
                sizes.append(move_size(current, moved))
            if noise:
                if rng is None:
                    raise ValueError("Langevin noise needs a generator")
                eps = torch.randn(moved.shape, generator=rng, device=rng.device)
                moved = moved + noise * eps.to(moved)  # ... + sigma * eps
        del gradient
        current, pull = moved, anchor
        if record:
            path.append(current.detach())
        if step + 1 == keep_after:
            kept = current.detach()
        if on_move:
            on_move(step, current)
    if measure:
        last = first_step + max(steps - 1, 0)
        energies.append(
            total_energy(energy_fn, current, origin, step=last, step_size=step_size, anchor=anchor, geometry=geometry)
        )
    nothing = start.new_zeros(*start.shape[:2], 0)
    count = torch.full(start.shape[:2], steps, dtype=torch.int64, device=start.device)
    return Trajectory(
        start=start,
        final=current,
        energies=torch.stack(energies, -1) if energies else nothing,
        moves=torch.stack(sizes, -1) if sizes else nothing,
        steps_used=count,
        path=torch.stack(path, 2) if record else None,
        looks=count,
        tries=torch.full_like(count, int(measure)),
        kept=kept,
    )
