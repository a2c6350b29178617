"""The odds that a candidate is not the true next state, as a logistic regression has them.

odds = sharpness * (ln h - middle) - threshold,     P(true) = 1 / (1 + exp(odds))

ln h is how high the candidate's energy lies, in units that compare (`model/level.py`). Where much moves, a false state
lies many units higher, where nothing does, hardly one: so sharpness and threshold are read from clues, their squares
and their products, the threshold from what the trunk says, too. And where states came in an order that no world has,
nothing follows from them: the threshold falls by `disorder`, the log-odds of that where they are above even, as another
regression reads them from what clues say of all states so far: training windows in another order against those windows.

Odds rise with h. All is solved at once; nothing is learned with the weights. Knows no energy and no world.
"""

# N examples, W width, L clues, A of which are averages

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ebwm_cli.model.solving import logistic, read, with_products, with_products_of

PULL, HIDDEN_PULL = 0.003, 0.01
"""Pulls to 0 of coefficients of standardised features: what the trunk says is many numbers, whose chance agreements
would be believed."""
ORDER_PULL = 0.01
"""The same of what disorder is read from."""
CONSTANT_PULL = 1e-6
"""Of constants: next to none, so that there is one solution even if all is told apart."""
BLUNTEST = 1.5
"""The least sharpness. A height is a square of a distance: far away, chances fall at least by its cube."""


class Odds(nn.Module):
    """Says nothing before it is fitted: `sharpness` is 0. The last `averages` of `clues` tell of disorder."""

    sharpness: Tensor
    threshold: Tensor
    limits: Tensor
    middle: Tensor
    bluntest: Tensor
    order: Tensor

    def __init__(self, width: int, clues: int, averages: int) -> None:
        super().__init__()
        self.clues, self.averages = clues, averages
        self.register_buffer("sharpness", torch.zeros(with_products_of(clues) + 1))
        self.register_buffer("threshold", torch.zeros(width + with_products_of(clues) + 1 + 1))
        self.register_buffer("limits", torch.zeros(2))  # of thresholds that were seen
        self.register_buffer("middle", torch.zeros(()))
        self.register_buffer("bluntest", torch.zeros(()))
        self.register_buffer("order", torch.zeros(with_products_of(averages) + 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Sharpness and threshold (...), at h = 1, read from hidden states and standardised clues (..., W + L)."""
        sharpness = read(self.sharpness, with_products(x[..., -self.clues :])).clamp_min(self.bluntest)
        threshold = read(self.threshold, self._telling(x)).clamp(*self.limits)
        return sharpness, threshold + sharpness * self.middle

    def _telling(self, x: Tensor) -> Tensor:
        """What thresholds are read from: hidden states, clues with their products, and disorder, of (..., W + L)."""
        disorder = read(self.order, with_products(x[..., x.shape[-1] - self.averages :])).clamp_min(0.0)
        return torch.cat([x[..., : -self.clues], with_products(x[..., -self.clues :]), disorder.unsqueeze(-1)], -1)

    def fit(self, true: tuple[Tensor, Tensor], false: Sequence[tuple[Tensor, Tensor]]) -> None:
        """To ln h (N,) and what all is read from (N, W + L), of true next states, and of kinds of false ones, each
        counted as much as all others. `fit_order` comes first."""
        kinds = [true, *false]
        spread = true[1][:, : -self.clues].std(0, correction=0).clamp_min(1e-6)
        middle, width, sharp = true[0].mean(), len(spread), len(self.sharpness)
        rows, holds, weights = [], [], []
        for number, (log_height, x) in enumerate(kinds):
            telling = self._telling(x)
            telling[:, :width] /= spread
            by_height = F.pad(telling[:, width:-1], (0, 1), value=1.0) * (log_height - middle)[:, None]
            rows.append(torch.cat([by_height, -F.pad(telling, (0, 1), value=1.0)], -1))
            holds.append(torch.full_like(log_height, float(number > 0)))
            weights.append(torch.full_like(log_height, 1 / len(log_height) / (len(false) if number else 1)))
        pull = torch.full_like(rows[0][0], PULL)
        pull[sharp : sharp + width] = HIDDEN_PULL
        pull[[sharp - 1, -1]] = CONSTANT_PULL
        found = logistic(torch.cat(rows), torch.cat(holds), torch.cat(weights), pull)
        self.sharpness.copy_(found[:sharp])
        self.threshold.copy_(found[sharp:])
        self.threshold[:width] /= spread.to(self.threshold)
        thresholds = read(self.threshold, self._telling(torch.cat([x for _, x in kinds])))
        self.limits.copy_(torch.stack(thresholds.aminmax()))
        self.middle.copy_(middle)
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
