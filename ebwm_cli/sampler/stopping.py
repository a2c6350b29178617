"""When a position has thought enough: never before its budget, once its energy has settled, or once it hardly moves.

Settled: E_{k-1} - E_k < tolerance * drop, which an energy that rises fulfils too, `patience` steps in a row. The drop
is the position's own, E_0 - E_k, or one and the same for all: then what has farther to fall may fall longer. Still:
|move_k| < tolerance * |move_1|. Knows no candidate.
"""

# B batch, T' candidate positions

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Stopping(Protocol):
    """Says which positions go on, from the energies and moves seen so far."""

    def going(self, energies: list[Tensor], moves: list[Tensor]) -> Tensor:
        """(B, T') bool: True where another move is worth making. `energies` are E_0 .. E_k and `moves` the sizes of
        the k moves so far, (B, T') each."""
        ...


class _Patient:
    """Stops a position for good once it was calm `patience` times in a row."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self._calm: Tensor | None = None

    def _after(self, calm: Tensor) -> Tensor:
        """Count another step, calm or not (B, T'); where to go on."""
        if self._calm is None:
            self._calm = torch.zeros(calm.shape, dtype=torch.int64, device=calm.device)
        stopped = self._calm >= self.patience
        self._calm = torch.where(calm | stopped, self._calm + 1, 0)
        return self._calm < self.patience


class EnergySettled(_Patient):
    """A position stops once a move lowers its energy by less than `tolerance` of the whole drop so far, or of `drop`
    where one is given, `patience` times in a row."""

    def __init__(self, tolerance: float, patience: int = 1, drop: float | Tensor | None = None) -> None:
        super().__init__(patience)
        self.tolerance, self.drop = tolerance, drop

    def going(self, energies: list[Tensor], moves: list[Tensor]) -> Tensor:
        if len(energies) < 2:
            return torch.ones_like(energies[0], dtype=torch.bool)
        fell = energies[-2] - energies[-1]
        whole = energies[0] - energies[-1] if self.drop is None else self.drop
        return self._after(~((fell >= self.tolerance * whole) & (fell > 0)))


class Still(_Patient):
    """A position stops once a move is shorter than `tolerance` of its first one, `patience` times in a row: where the
    total energy's gradient is small."""

    def __init__(self, tolerance: float, patience: int = 1) -> None:
        super().__init__(patience)
        self.tolerance = tolerance

    def going(self, energies: list[Tensor], moves: list[Tensor]) -> Tensor:
        if not moves:
            return torch.ones_like(energies[0], dtype=torch.bool)
        return self._after(~(moves[-1] >= self.tolerance * moves[0]) | (moves[-1] == 0))
