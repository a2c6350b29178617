"""Which way a candidate lies off where a descent goes, whatever how far.

Predictions err much along a few directions and hardly along most. Noise, and states of another scene, lie off along all
of them alike. So of an offset its parts along bands of directions are held, in units of what true next states have
there, against all of it: shares that no height tells, as that is nearly a distance, nor how hard the scene is.

share_b = ln((|offset_b|^2 / usual_b + near) / (mean of all bands + near))

`near` makes candidates that lie closer than true ones lie, as predictions do, have no direction. Knows no energy.
"""

# N offsets, D numbers of a point

from __future__ import annotations

import torch
from torch import Tensor, nn

BANDS = 64
"""Of as many directions each; more tell noise better, and each is known by fewer numbers."""
LARGEST = 1024
"""Points of more numbers are taken as they are: turning them would cost more than descending."""
NEAR = 0.3
"""What is near, in errors to be expected."""
LEAST = 1e-4
"""Of the mean: bands that hardly vary are taken for having that."""


class Directions(nn.Module):
    """Of points of `numbers` numbers; of none, there is nothing to say."""

    basis: Tensor
    usual: Tensor

    def __init__(self, numbers: int) -> None:
        super().__init__()
        turned = numbers if numbers <= LARGEST else 0
        self.register_buffer("basis", torch.eye(turned))  # columns are directions
        self.register_buffer("usual", torch.ones(min(BANDS, numbers)))  # mean squares of bands

    @property
    def bands(self) -> int:
        return len(self.usual)

    def forward(self, offset: Tensor, unit: Tensor) -> Tensor:
        """Shares (..., bands) of offsets (..., D) from where descents go; `unit` (...) is half the squared distance
        that predictions there will be wrong by."""
        if not self.bands:
            return offset
        usual = self.usual.to(offset)
        parts = self._mean_squares(offset) / usual
        near = (2 * NEAR / offset.shape[-1] * unit / usual.mean()).unsqueeze(-1)
        return (parts + near).log() - (parts.mean(-1, keepdim=True) + near).log()

    def fit(self, offsets: Tensor) -> None:
        """To those of true next states (N, D)."""
        if not self.bands:
            return
        if len(self.basis):
            self.basis.copy_(torch.linalg.eigh(offsets.T @ offsets / len(offsets))[1])
        usual = self._mean_squares(offsets).mean(0)
        self.usual.copy_(usual.clamp_min(LEAST * usual.mean()).clamp_min(torch.finfo(torch.float32).tiny))

    def _mean_squares(self, offset: Tensor) -> Tensor:
        """(..., bands), of those that true states lie off least along to those of most."""
        turned = offset @ self.basis.to(offset) if len(self.basis) else offset
        squares = turned.square()
        if squares.shape[-1] % self.bands == 0:
            return squares.unflatten(-1, (self.bands, -1)).mean(-1)
        return torch.stack([part.mean(-1) for part in squares.tensor_split(self.bands, -1)], -1)
