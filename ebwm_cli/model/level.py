"""The level: what a context adds to the energies of all its candidates alike, so that they say how wrong it will be.

level(h) = scale * (exp(a . h + b) - floor) - (c . h + d)

a, b: log(ideal + floor) by ridge regression on what the trunk says of the context, ideal the energy that a prediction's
error would be; c, d: the energy its descent ended at, likewise. So a prediction's energy is about its expected error,
and what of it no context foretold is left. Both are solved in closed form from predictions that were made; nothing is
learned by gradient. Knows no world and no candidate.
"""

# N predictions, W width

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

RIDGE = 0.1
"""Pull to 0 of coefficients of standardised features, for features' variance 1."""


class Level(nn.Module):
    """Says 0 until it is fitted. Its numbers are kept with the weights, and no optimizer sees them."""

    error: Tensor
    energy: Tensor
    bounds: Tensor
    scale: Tensor
    floor: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("error", torch.zeros(width + 1))
        self.register_buffer("energy", torch.zeros(width + 1))
        self.register_buffer("bounds", torch.zeros(2))  # of log errors that were seen: nothing is foretold beyond
        self.register_buffer("scale", torch.zeros(()))
        self.register_buffer("floor", torch.zeros(()))

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., W) -> (...)."""
        log_error = (hidden @ self.error[:-1] + self.error[-1]).clamp(*self.bounds)
        return self.scale * (log_error.exp() - self.floor) - (hidden @ self.energy[:-1] + self.energy[-1])

    @torch.no_grad()
    def fit(self, errors: tuple[Tensor, Tensor], energies: tuple[Tensor, Tensor], floor: float) -> None:
        """`errors`: hidden states (N, W) and ideal energies (N,) of predictions, those under `floor` (> 0) hardly told
        apart; `energies`: hidden states (N', W) and the energies (N',), without a level, that descents ended at."""
        hidden, ideal = (each.cpu().double() for each in errors)
        log_error = ridge(hidden, (ideal + floor).log())
        foretold = (hidden @ log_error[:-1] + log_error[-1]).clamp_min(math.log(floor))
        self.error.copy_(log_error)
        self.bounds.copy_(torch.stack([foretold.min(), foretold.max()]))
        # The mean of logs is that of a smaller number.
        self.scale.copy_(ideal.mean() / (foretold.exp() - floor).mean().clamp_min(1e-3 * floor))
        self.floor.fill_(floor)
        said, ended = (each.cpu().double() for each in energies)
        self.energy.copy_(ridge(said, ended))


def ridge(features: Tensor, target: Tensor, pull: float = RIDGE) -> Tensor:
    """Coefficients w of `features` (N, W), and the constant b, (W + 1,): those of the least mean square of
    target - features . w - b, plus `pull` times the sum of squares of w, in units of the features' spread."""
    mean, spread = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)
    x, middle = (features - mean) / spread, target.mean()
    normal = x.T @ x / len(x) + pull * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(normal, x.T @ (target - middle) / len(x)) / spread
    return torch.cat([weight, (middle - mean @ weight)[None]])
