"""The level: the zero and the unit that the energies of all candidates after one context are measured in.

level(E) = (E - zero) / unit + SAY * ln(unit / typical unit)

An energy leads downhill whatever a context adds to it or multiplies it by, so nothing in training makes energies after
one context comparable with those after another. `zero` is the energy at which a descent will end, `unit` the energy
that its prediction's error will be; both are read from what the trunk says of the context and from a first move, from
the energy it leads to and from its length. So a candidate is told how many expected errors it lies above the
prediction: minus the log of a density, up to factors, approximated at its mode (Laplace). The last term, a Gaussian's
ln of its variance, lets energies of predictions say how wrong those will be. Both are solved in closed form from
predictions that were made; nothing is learned by gradient. Knows no world and no candidate.
"""

# N predictions, W width

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

RIDGE = 0.1
"""Pull to 0 of coefficients of standardised features, for features' variance 1."""
SAY = 0.5
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
class FirstMove:
    """A whole move from the start that the state space has after some states, (...) each."""

    energy: Tensor
    """Total, where it led."""
    length: Tensor
    """Half of its square."""


class Level(nn.Module):
    """Changes no energy until it is fitted. Its numbers are kept with the weights, and no optimizer sees them."""

    zero: Tensor
    unit: Tensor
    bounds: Tensor
    typical: Tensor
    floor: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(width + 2))
        self.register_buffer("unit", torch.zeros(width + 2))  # of its logarithm, as the next two
        self.register_buffer("bounds", torch.zeros(2))  # of what was seen: nothing is foretold beyond
        self.register_buffer("typical", torch.zeros(()))
        self.register_buffer("floor", torch.ones(()))

    def forward(self, hidden: Tensor, first: FirstMove) -> Measure:
        """After contexts of which the trunk says (..., W)."""
        log_unit = _read(self.unit, hidden, (first.length + self.floor).log()).clamp(*self.bounds)
        return Measure(_read(self.zero, hidden, first.energy), log_unit.exp(), SAY * (log_unit - self.typical))

    @torch.no_grad()
    def fit(self, errors: tuple[Tensor, Tensor, Tensor], energies: tuple[Tensor, Tensor, Tensor], floor: float) -> None:
        """`errors`: hidden states (N, W), lengths (N,) of first moves, and ideal energies (N,) of predictions, those
        under `floor` (> 0) hardly told apart; `energies`: hidden states (N', W), and the energies (N',) that first
        moves led to, and descents."""
        hidden, length, ideal = (each.cpu().double() for each in errors)
        said, first, ended = (each.cpu().double() for each in energies)
        x = _beside(hidden, (length + floor).log())
        unit = ridge(x, (ideal + floor).log())
        foretold = (x @ unit[:-1] + unit[-1]).clamp_min(math.log(floor))
        self.unit.copy_(unit)
        self.bounds.copy_(torch.stack([foretold.min(), foretold.max()]))
        self.typical.copy_(foretold.mean())
        self.floor.fill_(floor)
        self.zero.copy_(ridge(_beside(said, first), ended))


def _beside(hidden: Tensor, fact: Tensor) -> Tensor:
    """(..., W) and (...) -> (..., W + 1)."""
    return torch.cat([hidden, fact.unsqueeze(-1)], -1)


def _read(weight: Tensor, hidden: Tensor, fact: Tensor) -> Tensor:
    """What coefficients and constant (W + 2,) make of (..., W) and (...)."""
    return _beside(hidden, fact) @ weight[:-1] + weight[-1]


def ridge(features: Tensor, target: Tensor, pull: float = RIDGE) -> Tensor:
    """Coefficients w of `features` (N, W), and the constant b, (W + 1,): those of the least mean square of
    target - features . w - b, plus `pull` times the sum of squares of w, in units of the features' spread."""
    mean, spread = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)
    x, middle = (features - mean) / spread, target.mean()
    normal = x.T @ x / len(x) + pull * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(normal, x.T @ (target - middle) / len(x)) / spread
    return torch.cat([weight, (middle - mean @ weight)[None]])
