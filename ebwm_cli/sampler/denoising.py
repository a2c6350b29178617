"""Denoising: from noise to a state along a falling noise level, by DDIM (arXiv 2010.02502, eq. 12 with sigma = 0).

x = s y + n eps, s^2 + n^2 = 1, level = ln(s^2 / n^2); the cosine schedule (arXiv 2102.09672) has n / s = tan(pi t / 2)
at time t, and shifted (arXiv 2301.11093) `shift` times that. A step takes the denoiser's clean estimate y' of x and
makes x' = s' y' + n' (x - s y') / n. Knows no network.
"""

# B batch, T' candidate positions, D state size, K denoising steps

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ebwm_cli.sampler.crowd import Crowd, some
from ebwm_cli.sampler.descent import EUCLIDEAN, Geometry, Trajectory, move_size
from ebwm_cli.sampler.stopping import Stopping

Denoiser = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""denoiser(noisy point (B, T', E), level (B, T'), None) -> clean candidate (B, T', D); or, with an index (n,), of
points (1, n, E) at these positions, counted through (B, T')."""

LAST_TIME = 0.02
"""Time at which the last candidate is held against what is said then: what noise is left is 3 % of the signal."""

PURE = 8.0
"""Largest size of a level: beyond it the weaker of signal and noise has 3e-4 of the variance, and all levels are one.
Else the level at time 1, where denoising starts, would lie far outside all that training draws."""


def signal_and_noise(time: Tensor, shift: float = 1.0) -> tuple[Tensor, Tensor]:
    """s and n of times in [0, 1], n / s = shift tan(pi t / 2)."""
    angle = time * (math.pi / 2)
    signal, noise = angle.cos(), shift * angle.sin()
    size = (signal.square() + noise.square()).sqrt()
    return signal / size, noise / size


def level_of(time: Tensor, shift: float = 1.0) -> Tensor:
    """ln(s^2 / n^2), kept within +-PURE."""
    signal, noise = signal_and_noise(time, shift)
    return 2 * (signal.clamp_min(1e-12).log() - noise.clamp_min(1e-12).log()).clamp(-PURE / 2, PURE / 2)


def times_of(steps: int) -> list[float]:
    """Times of `steps` denoising steps, from 1 (nothing but noise) down, and the time after the last: evenly spread, to
    LAST_TIME. Without a step, 1 alone."""
    return [1 - (1 - LAST_TIME) * step / max(steps, 1) for step in range(steps + 1)]


def denoise(
    denoiser: Denoiser,
    start: Tensor,
    noise: Tensor,
    *,
    steps: int,
    unit: float = 1.0,
    shift: float = 1.0,
    geometry: Geometry = EUCLIDEAN,
    stopping: Stopping | None = None,
    record: bool = False,
) -> Trajectory:
    """Take `steps` denoising steps from `noise` (B, T', E), standard normal, for points whose numbers have std `unit`,
    on the schedule shifted by `shift`.

    Candidates are the clean estimates, the first one `start` (B, T', D): what is said before anything was denoised. The
    energy of a candidate is its denoising error, the mean square by which the next estimate, made of less noise,
    differs from it, in units of `unit`^2; the last one's takes one more pass. `stopping` sees those energies, and a
    position that has stopped is computed no more.
    """
    noisy, point, final = noise * unit, geometry.point(start), start
    energies: list[Tensor] = []
    sizes: list[Tensor] = []
    path = [start]
    used = torch.zeros(start.shape[:2], dtype=torch.int64, device=start.device)
    tries, nothing = torch.zeros_like(used), start.new_zeros(start.shape[:2])
    times, crowd = times_of(steps), Crowd()
    for step, now in enumerate(times):
        time = noisy.new_full(noisy.shape[:2], now)
        estimate = denoiser(noisy, level_of(time, shift), crowd.index)
        crowd.count(tries)
        clean = geometry.point(estimate)
        error = ((clean - point) / unit).square().mean(-1)
        energies.append(crowd.spread(error, energies[-1] if energies else nothing))
        if step == steps:
            break
        going = stopping.going(energies, sizes) if stopping else None
        if going is not None and not going.all():
            if not going.any():
                break
            at = crowd.go_on(going)
            if at is not None:
                noisy, estimate, clean, time = (some(x, at) for x in (noisy, estimate, clean, time))
        sizes.append(crowd.spread(move_size(crowd.of(final), estimate), nothing))
        crowd.count(used)
        final, point = crowd.spread(estimate, final), clean
        if record:
            path.append(final)
        noisy = _noised(noisy, clean, time, torch.full_like(time, times[step + 1]), shift)
    return Trajectory(
        start=start,
        final=final,
        energies=torch.stack(energies, -1),
        moves=torch.stack(sizes, -1) if sizes else start.new_zeros(*start.shape[:2], 0),
        steps_used=used,
        path=torch.stack(path, 2) if record else None,
        looks=torch.zeros_like(used),
        tries=tries,
    )


def _noised(noisy: Tensor, clean: Tensor, time: Tensor, later: Tensor, shift: float) -> Tensor:
    """x' = s' y' + n' (x - s y') / n."""
    (signal, noise), (next_signal, next_noise) = signal_and_noise(time, shift), signal_and_noise(later, shift)
    eps = (noisy - signal[..., None] * clean) / noise[..., None]
    return next_signal[..., None] * clean + next_noise[..., None] * eps
