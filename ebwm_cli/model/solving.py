"""Coefficients of linear features that have one best value, found in closed form or nearly. Knows no energy."""

# N examples, F features

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ROUNDS = 30
"""Of Newton's method, at most; a handful is usual."""
SETTLED = 1e-8
"""A loss that falls by less has."""


def ridge(features: Tensor, target: Tensor, pull: float | list[float], counts: Tensor | None = None) -> Tensor:
    """Coefficients w of `features` (N, F), and the constant b, (F + 1,): those of the least mean square of
    target - features . w - b, each counted as much as `counts` (N,) says, plus `pull`, one or one each, times squares
    of w, in units of the features' spread."""
    share = torch.ones_like(target) if counts is None else counts
    share = share / share.sum()
    mean = share @ features
    spread = (share @ (features - mean).square()).sqrt().clamp_min(1e-6)
    x, middle = (features - mean) / spread, share @ target
    normal = x.T @ (share[:, None] * x) + torch.diag(torch.as_tensor(pull, dtype=x.dtype).expand(x.shape[1]))
    weight = torch.linalg.solve(normal, x.T @ (share * (target - middle))) / spread
    return torch.cat([weight, (middle - mean @ weight)[None]])


def logistic(features: Tensor, holds: Tensor, weight: Tensor, pull: Tensor) -> Tensor:
    """Coefficients w (F,) of the least sum of `weight` (N,) times -ln P, plus half of `pull` (F,) times squares of w,
    where features (N, F) . w are the log-odds that what `holds` (N,), 0 or 1, is 1. Newton's method, whose moves are
    halved until the loss falls: it is convex, so there is one bottom where all pulls are above 0."""

    def loss(w: Tensor) -> Tensor:
        odds = features @ w
        return weight @ (F.softplus(odds) - holds * odds) + pull @ w.square() / 2

    found = torch.zeros_like(pull)
    lowest = loss(found)
    for _ in range(ROUNDS):
        chance = (features @ found).sigmoid()
        slope = features.T @ (weight * (chance - holds)) + pull * found
        bend = features.T @ ((weight * chance * (1 - chance))[:, None] * features) + torch.diag(pull)
        move, length = torch.linalg.solve(bend, slope), 1.0
        while (tried := loss(found - length * move)) > lowest and length > SETTLED:
            length /= 2
        if not tried < lowest - SETTLED:
            break
        found, lowest = found - length * move, tried
    return found


def read(weight: Tensor, features: Tensor) -> Tensor:
    """What coefficients and constant (F + 1,), or several sets of them (S, F + 1), make of features (..., F): (...) or
    (..., S)."""
    weight = weight.to(features)
    return features @ weight[..., :-1].movedim(-1, 0) + weight[..., -1]


def with_products(features: Tensor) -> Tensor:
    """Features (..., F), and halves of their squares and products."""
    first, second = torch.triu_indices(features.shape[-1], features.shape[-1], device=features.device)
    return torch.cat([features, features[..., first] * features[..., second] / 2], -1)


def with_products_of(count: int) -> int:
    """How many those are."""
    return count + count * (count + 1) // 2
