"""The level: the zero and the unit that the energies of all candidates after one context are measured in.

level(E) = (E - zero) / unit + SAY * ln(unit / typical unit)

An energy leads downhill whatever a context adds to it or multiplies it by, so nothing in training makes energies after
one context comparable with those after another. `zero` is the energy at which a descent will end, read from its first
moves; `unit` the energy that its prediction's error will be, read from what the trunk says of the context and from a
few clues: how far those moves go, and what the state space tells without a network. So a candidate is told how many
expected errors it lies above the prediction: minus the log of a density, up to factors, approximated at its mode
(Laplace). The last term, a Gaussian's ln of its variance, lets energies of predictions say how wrong those will be.
Both are solved in closed form from predictions that were made; nothing is learned by gradient. Knows no world and no
candidate.
"""

# N predictions, W width, C clues of the state space

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MOVES = 2
"""How many first moves are looked at: where the second goes far, the first has not come to the bottom."""
HIDDEN_PULL, CLUE_PULL = 0.3, 0.01
"""Pulls to 0 of coefficients of standardised features, for features' variance 1: what the trunk says is many numbers,
whose chance agreements with errors would be believed; clues are few."""
SAY = 0.3
"""How much the expected error adds: more orders predictions better by their errors, less tells true from false states
better over contexts of which some are hard (README)."""


@dataclass(frozen=True)
class Measure:
    """What energies after some states are measured in, (...) each."""

    zero: Tensor
    unit: Tensor
    added: Tensor

    def __call__(self, energy: Tensor) -> Tensor:
        """Energies (..., K) of K candidates after each of those states, measured so."""
        zero, unit, added = (each.unsqueeze(-1) for each in (self.zero, self.unit, self.added))
        return (energy - zero) / unit + added

    def repeated(self, times: int) -> Measure:
        """Of the same states (B, P), `times` over, (B, times * P)."""
        return Measure(*(torch.cat([each] * times, 1) for each in (self.zero, self.unit, self.added)))


@dataclass(frozen=True)
class FirstMoves:
    """Two whole moves from the start that the state space has after some states (...)."""

    energy: Tensor
    """Total, between them, (...)."""
    lengths: Tensor
    """Half of their squares, (..., MOVES)."""

    @property
    def facts(self) -> Tensor:
        """What tells where a descent will end, (..., 2): an energy, and the square of its slope there."""
        return torch.stack([self.energy, self.lengths[..., -1]], -1)


class Level(nn.Module):
    """Changes no energy until it is fitted. Its numbers are kept with the weights, and no optimizer sees them."""

    zero: Tensor
    unit: Tensor
    usual: Tensor
    bounds: Tensor
    typical: Tensor
    floor: Tensor

    def __init__(self, width: int, clues: int) -> None:
        """`clues`: how many, beside the lengths of the first moves."""
        super().__init__()
        self.register_buffer("zero", torch.zeros(2 + 1))
        clues += MOVES
        self.register_buffer("unit", torch.zeros(width + clues + 1))  # of its logarithm, as all that follow
        self.register_buffer("usual", torch.zeros(clues))  # what a clue that is not known is taken for
        self.register_buffer("bounds", torch.zeros(2))  # of what was seen: nothing is foretold beyond
        self.register_buffer("typical", torch.zeros(()))
        self.register_buffer("floor", torch.ones(()))

    def forward(self, hidden: Tensor, clues: Tensor, first: FirstMoves) -> Measure:
        """After contexts of which the trunk says (..., W), and the state space (..., C), nan where it does not know."""
        log_unit = _read(self.unit, self._signs(hidden, clues, first.lengths)).clamp(*self.bounds)
        return Measure(_read(self.zero, first.facts), log_unit.exp(), SAY * (log_unit - self.typical))

    @torch.no_grad()
    def fit(self, errors: Sequence[Tensor], energies: Sequence[Tensor], floor: float) -> None:
        """`errors`: hidden states (N, W), clues (N, C), lengths (N, MOVES) of first moves, and ideal energies (N,) of
        predictions, those under `floor` (> 0) hardly told apart; `energies`: facts (N', 2) of first moves, and the
        energies (N',) that descents ended at."""
        hidden, clues, lengths, ideal = (each.cpu().double() for each in errors)
        facts, ended = (each.cpu().double() for each in energies)
        self.floor.fill_(floor)
        self.usual.copy_((torch.cat([lengths, clues], -1) + floor).log().nanmean(0).nan_to_num())
        x, width = self._signs(hidden, clues, lengths), hidden.shape[1]
        unit = ridge(x, (ideal + floor).log(), [HIDDEN_PULL] * width + [CLUE_PULL] * (x.shape[1] - width))
        foretold = _read(unit, x).clamp_min(math.log(floor))
        self.unit.copy_(unit)
        self.bounds.copy_(torch.stack([foretold.min(), foretold.max()]))
        self.typical.copy_(foretold.mean())
        self.zero.copy_(ridge(facts, ended, CLUE_PULL))

    def _signs(self, hidden: Tensor, clues: Tensor, lengths: Tensor) -> Tensor:
        """(..., W), (..., C) and (..., MOVES) -> (..., W + MOVES + C)."""
        logs = (torch.cat([lengths, clues.to(lengths)], -1) + self.floor.to(lengths)).log()
        return torch.cat([hidden, torch.where(logs.isnan(), self.usual.to(logs), logs)], -1)


def _read(weight: Tensor, features: Tensor) -> Tensor:
    """What coefficients and constant (F + 1,) make of features (..., F)."""
    return features @ weight[:-1] + weight[-1]


def ridge(features: Tensor, target: Tensor, pull: float | list[float]) -> Tensor:
    """Coefficients w of `features` (N, F), and the constant b, (F + 1,): those of the least mean square of
    target - features . w - b, plus `pull`, one or one each, times squares of w, in units of the features' spread."""
    mean, spread = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)
    x, middle = (features - mean) / spread, target.mean()
    normal = x.T @ x / len(x) + torch.diag(torch.as_tensor(pull, dtype=x.dtype).expand(x.shape[1]))
    weight = torch.linalg.solve(normal, x.T @ (target - middle) / len(x)) / spread
    return torch.cat([weight, (middle - mean @ weight)[None]])
