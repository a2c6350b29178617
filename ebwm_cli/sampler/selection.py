"""One prediction of several samples: the lowest energy, the largest fall of it, any one. Knows no network."""

# B batch, T' candidate positions, M samples, K descent steps

from __future__ import annotations

import torch
from torch import Tensor


def lowest_energy(energies: Tensor) -> Tensor:
    """Index (B, T') of the sample with the lowest energy among (B, T', M); a NaN never wins."""
    return torch.nan_to_num(energies, nan=float("inf")).argmin(-1)


def pick(select: str, energies: Tensor, rng: torch.Generator) -> Tensor:
    """Index (B, T') of the sample to keep, by `select`, of energies (B, T', M, K+1) from start to final. The mean is of
    all; what goes with it is the lowest energy's."""
    if select == "random":
        index = torch.randint(energies.shape[2], energies.shape[:2], generator=rng, device=rng.device)
        return index.to(energies.device)
    if select == "gap":
        return lowest_energy(energies[..., -1] - energies[..., 0])
    return lowest_energy(energies[..., -1])


def take(values: Tensor, index: Tensor) -> Tensor:
    """values (B, T', M, ...) at `index` (B, T') -> (B, T', ...)."""
    spread = index.reshape(*index.shape, 1, *[1] * (values.ndim - 3)).expand(*index.shape, 1, *values.shape[3:])
    return values.gather(2, spread).squeeze(2)
