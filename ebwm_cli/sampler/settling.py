"""Descent in which every position stops when it has thought enough, and then costs nothing more.

The move is `descent`'s; who has stopped leaves the batch. With `backtrack` a move that would raise the total energy is
halved, and where half of it would too, refused: the next one is tried at a quarter. So no total energy ever rises.
Knows no network.
"""

# B batch, T' candidate positions, D state size, n positions that go on

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebwm_cli.sampler.crowd import Crowd, some
from ebwm_cli.sampler.curvature import StepControl
from ebwm_cli.sampler.descent import (
    EUCLIDEAN,
    EnergyFn,
    Geometry,
    Landscapes,
    Trajectory,
    anchored,
    cooled,
    landscape_at,
    look,
    move_size,
    moved_by,
)
from ebwm_cli.sampler.stopping import Stopping

Narrow = Callable[[Tensor], Landscapes]
"""narrow(index (n,)) -> the energies of candidates (1, n, D) at these positions, counted through (B, T')."""


def settle(
    energy_fn: Landscapes,
    start: Tensor,
    *,
    steps: int,
    step_size: float | Tensor,
    anchor: float = 0.0,
    origin: Tensor | None = None,
    cooling: float = 0.0,
    gradient_clamp: float = 0.0,
    stopping: Stopping | None = None,
    backtrack: bool = False,
    control: StepControl | None = None,
    narrow: Narrow | None = None,
    record: bool = False,
    keep_after: int = 0,
    geometry: Geometry = EUCLIDEAN,
) -> Trajectory:
    """Move candidates downhill from `start` (B, T', D), `steps` times at most and each position until `stopping` says
    that it is enough.

    `control` shortens moves where the energy is curved. Where `narrow` is given, positions that stopped are not
    computed any more; without it they are, and their moves thrown away. The rest as in `descend`.
    """
    origin = start if origin is None else origin
    shape = start.shape[:2]
    crowd = Crowd(leaves=narrow is not None)
    moving = _Moving(energy_fn, narrow, start, origin, torch.ones_like(start[..., :1]), crowd)
    nothing = start.new_zeros(shape)
    whole = _Whole(start.clone(), nothing)
    energies: list[Tensor] = []
    sizes: list[Tensor] = []
    path = [start]
    kept: Tensor | None = None
    used = torch.zeros(shape, dtype=torch.int64, device=start.device)
    looks, tries = torch.zeros_like(used), torch.zeros_like(used)
    known: Tensor | None = None  # total energies of where the last moves led

    def total(energy: Tensor, candidate: Tensor) -> Tensor:
        return anchored(energy, candidate, moving.origin, step_size, anchor, geometry)

    for step in range(steps):
        energy_here, gradient = look(moving.landscape(step), moving.candidate, geometry)
        crowd.count(looks)
        energies.append(whole.energies(crowd, total(energy_here, moving.candidate) if known is None else known))
        going = stopping.going(energies, sizes) if stopping else None
        if going is not None and not going.all():
            if not going.any():
                break
            gradient = moving.keep(going, gradient, control)
        scale = moving.scale * cooled(cooling, step)
        if control is not None:
            scale = scale * control.scale(moving.landscape(step), moving.candidate, geometry, step)

        def after(scale: Tensor, gradient: Tensor = gradient) -> Tensor:
            return moved_by(
                moving.candidate,
                gradient,
                moving.origin,
                step_size=step_size,
                step_scale=scale,
                anchor=anchor,
                gradient_clamp=gradient_clamp,
                geometry=geometry,
            )

        moved, known = after(scale), None
        if backtrack:
            before, judged = crowd.of(whole.last), moving.landscape(step)

            def height(candidate: Tensor, judged: EnergyFn = judged) -> Tensor:
                crowd.count(tries)
                with torch.no_grad():
                    return total(judged(geometry.point(candidate)), candidate)

            known = height(moved)
            if (rises := ~(known <= before)).any():
                half = torch.where(rises[..., None], after(scale / 2), moved)
                lower = height(half)
                refused = ~(lower <= before)
                moved = torch.where(refused[..., None], moving.candidate, half)
                known = torch.where(refused, before, lower)
                shorter = torch.where(refused, 0.25, 0.5)
                moving.scale = torch.where(rises[..., None], moving.scale * shorter[..., None], moving.scale)
            if step + 1 < steps and moving.landscape(step + 1) is not judged:
                known = None  # the next step is on another landscape
        sizes.append(crowd.spread(move_size(moving.candidate, moved), nothing))
        used += crowd.spread(torch.ones_like(moved[..., 0], dtype=used.dtype), torch.zeros_like(used))
        moving.candidate = moved
        whole.candidates = crowd.spread(moved, whole.candidates)
        if record:
            path.append(whole.candidates.clone())
        if step + 1 == keep_after:
            kept = whole.candidates
    else:
        if known is None:
            crowd.count(tries)
            with torch.no_grad():
                last = moving.landscape(max(steps - 1, 0))(geometry.point(moving.candidate))
                known = total(last, moving.candidate)
        energies.append(whole.energies(crowd, known))
    return Trajectory(
        start=start,
        final=whole.candidates,
        energies=torch.stack(energies, -1),
        moves=torch.stack(sizes, -1) if sizes else start.new_zeros(*shape, 0),
        steps_used=used,
        path=torch.stack(path, 2) if record else None,
        looks=looks,
        tries=tries,
        kept=kept,
    )


@dataclass
class _Moving:
    """Those who still move, (B, T'), later (1, n), and their landscapes."""

    energy_fn: Landscapes
    narrow: Narrow | None
    candidate: Tensor  # (B, T', D), later (1, n, D)
    origin: Tensor
    scale: Tensor  # (B, T', 1), later (1, n, 1)
    crowd: Crowd

    def landscape(self, step: int) -> EnergyFn:
        return landscape_at(self.energy_fn, step)

    def keep(self, going: Tensor, gradient: Tensor, control: StepControl | None) -> Tensor:
        """Go on with those of `going` (B, T') alone; their part of `gradient`."""
        at = self.crowd.go_on(going)
        if at is None or self.narrow is None or self.crowd.index is None:
            return gradient
        self.candidate, self.origin, self.scale = (some(x, at) for x in (self.candidate, self.origin, self.scale))
        if control is not None:
            control.keep(at)
        self.energy_fn = self.narrow(self.crowd.index)
        return some(gradient, at)


@dataclass
class _Whole:
    """What is known of every position, stopped or not."""

    candidates: Tensor  # (B, T', D)
    last: Tensor  # (B, T')

    def energies(self, crowd: Crowd, values: Tensor) -> Tensor:
        """(B, T'), who has stopped repeating himself."""
        self.last = crowd.spread(values, self.last)
        return self.last
