"""The level: the zero and the unit that the energies of all candidates after one context are measured in.

level(E) = (E - zero) / unit + SAY * ln(unit / typical unit)

An energy leads downhill whatever a context adds to it or multiplies it by, so nothing in training makes energies after
one context comparable with those after another. `zero` is the energy at which a descent will end, read from where its
first move leads and from what the trunk says of the context; `unit` is the energy that the prediction's error will be,
read from the latter. So a candidate is told how many expected errors it lies above the prediction: minus the log of a
density, up to factors, approximated at its mode (Laplace). The last term, a Gaussian's ln of its variance, lets
energies of predictions say how wrong those will be. Both are solved in closed form from predictions that were made;
nothing is learned by gradient. Knows no world and no candidate.
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


class Level(nn.Module):
    """Changes no energy until it is fitted. Its numbers are kept with the weights, and no optimizer sees them."""

    zero: Tensor
    unit: Tensor
    bounds: Tensor
    typical: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(width + 2))
        self.register_buffer("unit", torch.zeros(width + 1))  # of its logarithm, as the next two
        self.register_buffer("bounds", torch.zeros(2))  # of what was seen: nothing is foretold beyond
        self.register_buffer("typical", torch.zeros(()))

    def forward(self, hidden: Tensor, first: Tensor) -> Measure:
        """What the trunk says (..., W) of contexts, and the energies (...) that a first move leads to."""
        log_unit = (hidden @ self.unit[:-1] + self.unit[-1]).clamp(*self.bounds)
        zero = hidden @ self.zero[:-2] + first * self.zero[-2] + self.zero[-1]
        return Measure(zero, log_unit.exp(), SAY * (log_unit - self.typical))

    @torch.no_grad()
    def fit(self, errors: tuple[Tensor, Tensor], energies: tuple[Tensor, Tensor, Tensor], floor: float) -> None:
        """`errors`: hidden states (N, W) and ideal energies (N,) of predictions, those under `floor` (> 0) hardly told
        apart; `energies`: hidden states (N', W) and the energies (N',) that first moves led to, and descents."""
        hidden, ideal = (each.cpu().double() for each in errors)
        unit = ridge(hidden, (ideal + floor).log())
        foretold = (hidden @ unit[:-1] + unit[-1]).clamp_min(math.log(floor))
        self.unit.copy_(unit)
        self.bounds.copy_(torch.stack([foretold.min(), foretold.max()]))
        self.typical.copy_(foretold.mean())
        said, first, ended = (each.cpu().double() for each in energies)
        self.zero.copy_(ridge(torch.cat([said, first[:, None]], 1), ended))


def ridge(features: Tensor, target: Tensor, pull: float = RIDGE) -> Tensor:
    """Coefficients w of `features` (N, W), and the constant b, (W + 1,): those of the least mean square of
    target - features . w - b, plus `pull` times the sum of squares of w, in units of the features' spread."""
    mean, spread = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)
    x, middle = (features - mean) / spread, target.mean()
    normal = x.T @ x / len(x) + pull * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(normal, x.T @ (target - middle) / len(x)) / spread
    return torch.cat([weight, (middle - mean @ weight)[None]])
