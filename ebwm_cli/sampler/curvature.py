"""How curved the energy is where a candidate stands, and how long a move may be there.

A move y <- y - s (alpha g(y) + lambda (y - y0)) is stable while s (alpha c + lambda) < 2, c the largest curvature: the
largest eigenvalue of J = dg/dy, g what a move of length 1 takes off the candidate. Found by power iteration,
v <- J^T v / |J^T v|; for latents J is the Hessian d2E/dy2, and J^T v a Hessian-vector product. Knows no network.
"""

# B batch, T' candidate positions, D state size

from __future__ import annotations

import torch
from torch import Tensor

from ebwm_cli.sampler.descent import EUCLIDEAN, EnergyFn, Geometry, look

ITERATIONS = 4
"""Power iterations from a direction that says nothing."""
EVERY = 8
"""Descent steps, or updates of the weights, for which a curvature is trusted."""


def largest_curvature(
    energy_fn: EnergyFn,
    candidate: Tensor,
    direction: Tensor,
    iterations: int = ITERATIONS,
    geometry: Geometry = EUCLIDEAN,
) -> tuple[Tensor, Tensor]:
    """Largest eigenvalues in size of J at candidates (B, T', D), (B, T'), by `iterations` from `direction` (B, T', D);
    and the directions they were found in, of norm 1. No position feels another: one pass serves all. A power iteration
    knows no signs: where the energy bends down as sharply, moves are shortened, too."""
    here = candidate.detach().requires_grad_()
    with torch.enable_grad():
        _, gradient = look(energy_fn, here, geometry, create_graph=True)
        taken = here - geometry.move(here, gradient, 1.0)  # g(y)
    vector, size = _normed(direction)
    for left in reversed(range(iterations)):
        (product,) = torch.autograd.grad(taken, here, vector, retain_graph=left > 0)
        vector, size = _normed(product)
    return size, vector


def _normed(vector: Tensor) -> tuple[Tensor, Tensor]:
    size = torch.linalg.vector_norm(vector, dim=-1)
    return vector / size.clamp_min(torch.finfo(vector.dtype).tiny)[..., None], size


def stable_scale(curvature: Tensor, *, step_size: float | Tensor, anchor: float, fraction: float) -> Tensor:
    """What to shorten a move by, s = min(1, fraction / (alpha c + lambda)); `fraction` below 2 is stable, at 1 a
    quadratic's steepest direction is done in one move."""
    return (fraction / (step_size * curvature + anchor).clamp_min(1e-12)).clamp_max(1.0)


class StepControl:
    """Shortens moves per position by the curvature found there, looked up again every EVERY steps."""

    def __init__(self, *, step_size: float | Tensor, anchor: float, fraction: float, rng: torch.Generator) -> None:
        self.step_size, self.anchor, self.fraction, self.rng = step_size, anchor, fraction, rng
        self._direction: Tensor | None = None
        self._scale: Tensor | None = None

    def scale(self, energy_fn: EnergyFn, candidate: Tensor, geometry: Geometry, step: int) -> Tensor:
        """Scales (B, T', 1) for the moves of descent step `step` from candidates (B, T', D)."""
        if self._scale is not None and step % EVERY:
            return self._scale
        again = self._direction is not None
        direction = self._direction
        if direction is None:
            direction = torch.randn(candidate.shape, generator=self.rng, device=self.rng.device).to(candidate)
        curvature, self._direction = largest_curvature(
            energy_fn, candidate, direction, 1 if again else ITERATIONS, geometry
        )
        self._scale = stable_scale(
            curvature, step_size=self.step_size, anchor=self.anchor, fraction=self.fraction
        ).unsqueeze(-1)
        return self._scale

    def keep(self, index: Tensor) -> None:
        """Go on with the positions `index` (n,) of those there were, as (1, n)."""
        if self._scale is not None and self._direction is not None:
            self._scale = self._scale.flatten(0, 1)[index][None]
            self._direction = self._direction.flatten(0, 1)[index][None]
