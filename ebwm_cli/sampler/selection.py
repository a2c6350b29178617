"""Best of several samples: keep the one with the lowest final energy. Knows no network."""

from __future__ import annotations

import torch
from torch import Tensor


def lowest_energy(energies: Tensor) -> Tensor:
    """Index (B, T') of the sample with the lowest energy among (B, T', M); a NaN never wins."""
    return torch.nan_to_num(energies, nan=float("inf")).argmin(-1)


def take(values: Tensor, index: Tensor) -> Tensor:
    """values (B, T', M, ...) at `index` (B, T') -> (B, T', ...)."""
    spread = index.reshape(*index.shape, 1, *[1] * (values.ndim - 3)).expand(*index.shape, 1, *values.shape[3:])
    return values.gather(2, spread).squeeze(2)
