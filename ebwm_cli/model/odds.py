"""The odds that a candidate is not the true next state but a false one of some kind, as logistic regressions have them.

odds = sharpness * (ln h - middle) + way . shares - threshold       of each kind
P(true) = 1 / (1 + mean of exp(odds) over kinds)

ln h is how high the candidate's energy lies, in units that compare (`model/level.py`), shares are which way it lies
(`model/directions.py`). Where much moves, a false state lies many units higher, where nothing does, hardly one: so
sharpness and threshold are read from clues, their squares and their products, the threshold from what the trunk says,
too. A state of another scene lies higher than one two steps ahead, noise off in other directions: so each kind has odds
of its own. And where states came in an order that no world has, nothing follows from them: the threshold of that kind,
the last, falls by `disorder`, the log-odds of that where they are above even, as another regression reads them from
what clues say of all states so far: training windows in another order against those windows.

Odds rise with h. All is solved at once; nothing is learned with the weights. Knows no energy and no world.
"""

# N examples, W width, L clues, A of which are averages, F = W + L and their products

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ebwm_cli.model.solving import logistic, read, with_products, with_products_of

KINDS = 4
"""Of false states: three after contexts as they are, and true ones after contexts in another order."""
PULL, HIDDEN_PULL = 0.003, 0.01
"""Pulls to 0 of coefficients of standardised features: what the trunk says is many numbers, whose chance agreements
would be believed."""
ORDER_PULL = 0.01
"""The same of what disorder is read from."""
CONSTANT_PULL = 1e-6
"""Of constants: next to none, so that there is one solution even if all is told apart."""
BLUNTEST = 1.5
"""The least sharpness. A height is a square of a distance: far away, chances fall at least by its cube."""
IN_FULL = 1.0
"""The least that disorder counts. It is log-odds already, of which a regression beside other features believes less,
from windows that it has learned."""

NEVER = 1e30
"""The threshold of a kind that was not seen: no odds reach it, and yet it is a number, which can be kept."""


class Judged(NamedTuple):
    """States that odds are fitted to."""

    log_height: Tensor
    """(N,)."""
    shares: Tensor
    """(N, ways)."""
    telling: Tensor
    """What all is read from, (N, F)."""


class Odds(nn.Module):
    """Says nothing before it is fitted: `sharpness` is 0. The last `averages` of `clues` tell of disorder; there are
    `ways` shares."""

    sharpness: Tensor
    way: Tensor
    threshold: Tensor
    limits: Tensor
    middle: Tensor
    bluntest: Tensor
    disorder: Tensor
    order: Tensor

    def __init__(self, width: int, clues: int, averages: int, ways: int) -> None:
        super().__init__()
        self.width, self.clues, self.averages = width, clues, averages
        told = with_products_of(clues)
        self.register_buffer("sharpness", torch.zeros(KINDS, told + 1))
        self.register_buffer("way", torch.zeros(KINDS, ways))
        self.register_buffer("threshold", torch.zeros(KINDS, width + told + 1))
        self.register_buffer("limits", torch.zeros(KINDS, 2))  # of thresholds that were seen
        self.register_buffer("middle", torch.zeros(()))
        self.register_buffer("bluntest", torch.zeros(()))
        self.register_buffer("disorder", torch.zeros(()))  # how much that counts
        self.register_buffer("order", torch.zeros(with_products_of(averages) + 1))

    def forward(self, telling: Tensor) -> tuple[Tensor, Tensor]:
        """Sharpness and threshold, at h = 1, of each kind (..., KINDS), read from hidden states and standardised clues
        with their products (..., F)."""
        clues, limits = telling[..., self.width :], self.limits.to(telling)
        sharpness = read(self.sharpness, clues).clamp_min(self.bluntest)
        threshold = read(self.threshold, telling).clamp(limits[:, 0], limits[:, 1]) + sharpness * self.middle
        threshold[..., -1] -= self.disorder * self._disorder(telling)
        return sharpness, threshold

    def against(self, shares: Tensor) -> Tensor:
        """What shares (..., ways) add to the odds of each kind, (..., KINDS)."""
        return shares @ self.way.T.to(shares)

    def fit(self, true: Judged, false: Sequence[Judged]) -> None:
        """To true next states, and to the kinds of false ones, of which there may be none. `fit_order` comes first."""
        count = sum(len(kind.log_height) > 0 for kind in false)
        spread = true.telling[:, : self.width].std(0, correction=0).clamp_min(1e-6)
        for each in (self.sharpness, self.way, self.threshold, self.disorder):
            each.zero_()
        self.middle.copy_(true.log_height.mean())
        self.limits.fill_(NEVER)
        for number, kind in enumerate(false):
            if len(kind.log_height):
                self._fit_kind(number, true, kind, spread, 1 / count)
        self.bluntest.fill_(BLUNTEST)

    def fit_order(self, natural: Tensor, shuffled: Tensor) -> None:
        """Standardised averages (N, A) of contexts as they are, and of such in another order."""
        if not self.averages or not len(natural) or not len(shuffled):
            self.order.zero_()
            return
        rows = F.pad(with_products(torch.cat([natural, shuffled])), (0, 1), value=1.0)
        holds = torch.cat([torch.zeros_like(natural[:, 0]), torch.ones_like(shuffled[:, 0])])
        weight = torch.cat([torch.full_like(each[:, 0], 1 / len(each)) for each in (natural, shuffled)])
        pull = torch.full_like(rows[0], ORDER_PULL)
        pull[-1] = CONSTANT_PULL
        self.order.copy_(logistic(rows, holds, weight, pull))

    def _fit_kind(self, number: int, true: Judged, false: Judged, spread: Tensor, share: float) -> None:
        """Of a kind that is such a `share` of all false states, which are as many as true ones."""
        ordered, parts = number < KINDS - 1, []
        for log_height, shares, telling in (true, false):
            hidden, clues = telling[:, : self.width] / spread, F.pad(telling[:, self.width :], (0, 1), value=1.0)
            sharp = clues * (log_height - self.middle.to(log_height))[:, None]
            disorder = self._disorder(telling)[:, None][:, ordered:]
            parts.append((sharp, shares, -torch.cat([hidden, clues], -1), disorder))
        sizes = [part.shape[1] for part in parts[0]]
        rows = [torch.cat(part, -1) for part in parts]
        holds = torch.cat([torch.full_like(part[:, 0], hold) for hold, part in enumerate(rows)])
        weight = torch.cat([torch.full_like(part[:, 0], 1 / len(part)) for part in rows])
        pull = torch.full_like(rows[0][0], PULL)
        sharp_pull, _, threshold_pull, _ = pull.split(sizes)
        threshold_pull[: self.width] = HIDDEN_PULL
        sharp_pull[-1:] = threshold_pull[-1:] = CONSTANT_PULL
        sharpness, way, threshold, disorder = logistic(torch.cat(rows), holds, weight, pull).split(sizes)
        self.sharpness[number], self.way[number] = sharpness, way
        threshold[: self.width] /= spread
        threshold[-1] -= math.log(share)
        self.threshold[number] = threshold
        if not ordered:
            self.disorder.copy_(disorder.clamp_min(IN_FULL)[0])
        thresholds = read(threshold, torch.cat([true.telling, false.telling]))
        self.limits[number] = torch.stack(thresholds.aminmax())

    def _disorder(self, telling: Tensor) -> Tensor:
        """Log-odds (...) that states came in an order that no world has, as far as they are above even."""
        averages = telling[..., self.width + self.clues - self.averages : self.width + self.clues]
        return read(self.order, with_products(averages)).clamp_min(0.0)
