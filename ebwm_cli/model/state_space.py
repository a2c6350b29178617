"""What a state is: how it enters the network, where descent starts, how far two states are apart.

LatentSpace: states are real vectors of unit average variance, geometry is Euclidean, loss is SmoothL1. A state space
knows no network and no sampler; the sampler sees its `point` and `divergence` only.
"""

# B batch, T positions, D state size, W width

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STILL = (
    0.5  # std of the first bias under motions: what a still scene reads as, lest a norm blow nothing up to something
)


class LatentSpace(nn.Module):
    """Real-valued states (B, T, D) of unit average variance.

    The network reads observed states as W [a x, m (x - before)] + b: where they are and how they came there. The
    weights are `appearance` a and `motion` m; without motion there is no b. Candidates enter as they are.

    `start` is the candidate before step 0: `noise`, `zeros`, `last` (the newest observed state) or `forecast` (the
    newest state plus a linear head on the observed stream, trained with its own loss).
    """

    def __init__(self, state_dim: int, width: int, start: str, appearance: float = 1.0, motion: float = 0.0) -> None:
        super().__init__()
        self.start_kind = start
        self.appearance, self.motion = appearance, motion
        self.observed_in = nn.Linear(state_dim * (bool(appearance) + bool(motion)), width, bias=bool(motion))
        self.candidate_in = nn.Linear(state_dim, width, bias=False)
        nn.init.xavier_normal_(self.observed_in.weight)
        nn.init.xavier_normal_(self.candidate_in.weight)
        if motion:
            nn.init.normal_(self.observed_in.bias, std=STILL)
        self.forecast_head: nn.Linear | None = None
        if start == "forecast":
            self.forecast_head = head = nn.Linear(width, state_dim, bias=False)
            nn.init.zeros_(head.weight)  # the first forecast is the last state

    def embed_observed(self, states: Tensor, before: Tensor) -> Tensor:
        """States (B, T, D) and the states before them -> (B, T, W)."""
        features = []
        if self.appearance:
            features.append(self.appearance * states)
        if self.motion:
            features.append(self.motion * (states - before))
        return self.observed_in(torch.cat(features, dim=-1))

    def embed_candidate(self, point: Tensor) -> Tensor:
        """(B, T', D) -> (B, T', W)."""
        return self.candidate_in(point)

    def start(self, states: Tensor, hidden: Tensor, rng: torch.Generator) -> Tensor:
        """Candidates (B, T', D) before step 0, after `states` (B, T', D) whose hidden states are (B, T', W)."""
        if self.start_kind == "noise":
            return gaussian(states.shape, rng, states)
        if self.start_kind == "zeros":
            return torch.zeros_like(states)
        return states if self.forecast_head is None else self.forecast(states, hidden)

    def forecast(self, states: Tensor, hidden: Tensor) -> Tensor:
        """The forecast head's next states (B, T', D)."""
        assert self.forecast_head is not None
        return states + self.forecast_head(hidden).float()

    def point(self, candidate: Tensor) -> Tensor:
        """The point the energy is differentiated at: the candidate itself."""
        return candidate

    def divergence(self, candidate: Tensor, start: Tensor) -> Tensor:
        """Bregman divergence D(y, y0) = |y - y0|^2 / 2 of Euclidean space, (B, T')."""
        return (candidate - start).square().sum(-1) / 2

    def distance(self, candidate: Tensor, target: Tensor) -> Tensor:
        """Prediction loss (B, T'): SmoothL1 with beta 1, averaged over the state's dimensions."""
        return F.smooth_l1_loss(candidate, target, reduction="none").mean(-1)


def gaussian(shape: torch.Size | tuple[int, ...], rng: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal numbers from `rng`, on the device and in the dtype of `like`."""
    return torch.randn(shape, generator=rng, device=rng.device).to(like.device, like.dtype)


def uniform(shape: torch.Size | tuple[int, ...], rng: torch.Generator, like: Tensor) -> Tensor:
    """Numbers uniform in [0, 1) from `rng`, on the device and in the dtype of `like`."""
    return torch.rand(shape, generator=rng, device=rng.device).to(like.device, like.dtype)
