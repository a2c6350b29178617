"""When a position has thought enough: never before its budget, or once its energy has settled.

Settled: E_{k-1} - E_k < tolerance * (E_0 - E_k), which an energy that rises fulfils too. Knows no candidate.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Stopping(Protocol):
    """Says which positions go on, from the energies seen so far."""

    def going(self, energies: list[Tensor]) -> Tensor:
        """(B, T') bool: True where another move is worth making. `energies` are E_0 .. E_k, (B, T') each."""
        ...


class EnergySettled:
    """A position stops for good once a move lowers its energy by less than `tolerance` of the whole drop so far."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self._going: Tensor | None = None

    def going(self, energies: list[Tensor]) -> Tensor:
        if self._going is None:
            self._going = torch.ones_like(energies[0], dtype=torch.bool)
        if len(energies) > 1:
            drop, whole = energies[-2] - energies[-1], energies[0] - energies[-1]
            self._going = self._going & (drop >= self.tolerance * whole) & (drop > 0)
        return self._going
