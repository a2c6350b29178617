"""Video: a candidate is a real vector of unit average variance, geometry is Euclidean, loss is SmoothL1.

Knows no network and no encoder.
"""

# B batch, T observed positions, T' candidate positions, D state size, W width

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ebwm_cli.model.references import Always, Copy, Reference, References
from ebwm_cli.model.state_space import NEAR_MISS, gaussian, uniform

STILL = (
    0.5  # std of the first bias under motions: what a still scene reads as, lest a norm blow nothing up to something
)

ALIKE = 0.0025
"""Half the squared distance per number within which latent states hardly differ."""
LONGER = (2, 3, 4)
"""Over how many states a scene moves that is held against how far it moves over one."""


class LatentSpace(nn.Module):
    """Real-valued states (B, T, D) of unit average variance.

    The network reads observed states as W [a x, m (x - before)] + b: where they are and how they came there. The
    weights are `appearance` a and `motion` m; without motion there is no b. Candidates enter as they are.

    `start` is the candidate before step 0: `noise`, `zeros`, `last` (the newest observed state) or `forecast` (the
    newest state plus a linear head on the observed stream, trained with its own loss).
    """

    in_nats = False
    unit = 1.0
    alike = ALIKE
    average_count = 2 + len(LONGER)
    clue_count = 4 + average_count
    tried_count = 0
    noise_shift = 1.0
    doubt_name = "size of the predicted move"

    def __init__(
        self,
        state_dim: int,
        width: int,
        start: str = "last",
        appearance: float = 1.0,
        motion: float = 0.0,
        *,
        candidates: bool = True,
        head: bool = False,
        residual: bool = True,
    ) -> None:
        """`candidates`: whether some enter the network. `head`: whether a forecast is read from its hidden states, with
        `residual` as the difference from the last state."""
        super().__init__()
        self.numbers = state_dim
        self.start_kind = start
        self.forecasts = start == "forecast"
        self.residual = residual
        self.appearance, self.motion = appearance, motion
        self.observed_in = nn.Linear(state_dim * (bool(appearance) + bool(motion)), width, bias=bool(motion))
        self.candidate_in = nn.Linear(state_dim, width, bias=False) if candidates else None
        nn.init.xavier_normal_(self.observed_in.weight)
        if self.candidate_in is not None:
            nn.init.xavier_normal_(self.candidate_in.weight)
        if motion:
            nn.init.normal_(self.observed_in.bias, std=STILL)
        self.forecast_head: nn.Linear | None = None
        if self.forecasts or head:
            self.forecast_head = nn.Linear(width, state_dim, bias=False)
            if residual:
                nn.init.zeros_(self.forecast_head.weight)  # the first forecast is the last state
            else:
                nn.init.xavier_normal_(self.forecast_head.weight)

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
        assert self.candidate_in is not None
        return self.candidate_in(point)

    def learned_parameters(self) -> Iterable[nn.Parameter]:
        """The candidates' way in, and the forecast."""
        return [p for layer in (self.candidate_in, self.forecast_head) if layer is not None for p in layer.parameters()]

    def start(self, states: Tensor, hidden: Tensor, rng: torch.Generator) -> Tensor:
        """Candidates (B, T', D) before step 0, after `states` (B, T', D) whose hidden states are (B, T', W)."""
        if self.start_kind == "noise":
            return gaussian(states.shape, rng, states)
        if self.start_kind == "zeros":
            return torch.zeros_like(states)
        return self.forecast(states, hidden) if self.forecasts else states

    def forecast(self, states: Tensor, hidden: Tensor) -> Tensor:
        """x + head(h), or head(h) alone, (B, T', D)."""
        assert self.forecast_head is not None
        change = self.forecast_head(hidden).to(states.dtype)
        return states + change if self.residual else change

    def blank(self, states: Tensor) -> Tensor:
        """Zeros, the mean state."""
        return torch.zeros_like(states)

    def point_of(self, states: Tensor) -> Tensor:
        """The states themselves."""
        return states

    def point(self, candidate: Tensor) -> Tensor:
        """The candidate itself."""
        return candidate

    def move(self, candidate: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        """y - length * dE/dy."""
        return candidate - length * gradient

    def divergence(self, candidate: Tensor, start: Tensor) -> Tensor:
        """Bregman divergence D(y, y0) = |y - y0|^2 / 2 of Euclidean space, (B, T')."""
        return (candidate - start).square().sum(-1) / 2

    def distance(self, candidate: Tensor, target: Tensor) -> Tensor:
        """Prediction loss (B, T'): SmoothL1 with beta 1, averaged over the state's dimensions."""
        return F.smooth_l1_loss(candidate, target, reduction="none").mean(-1)

    def commit(self, candidate: Tensor) -> Tensor:
        """The candidate itself."""
        return candidate

    def certain(self, states: Tensor) -> Tensor:
        """The states themselves."""
        return states

    def near_miss(self, states: Tensor, rng: torch.Generator, share: float = NEAR_MISS) -> Tensor:
        """x + share * eps, eps of a state's std."""
        return states + share * self.unit * gaussian(states.shape, rng, states)

    def near_miss_words(self, share: float = NEAR_MISS) -> str:
        """Noise, and how much of it."""
        return f"true states with noise of {share:.0%} of a state's std"

    def average(self, candidates: Tensor) -> Tensor:
        """Mean over the samples, (B, T', M, D) -> (B, T', D)."""
        return candidates.mean(-2)

    def doubt(self, candidate: Tensor, states: Tensor) -> Tensor:
        """Root mean square size of the predicted move, (B, T'): what moves far is hard to foresee."""
        return (candidate - states).square().mean(-1).sqrt()

    def between(self, start: Tensor, target: Tensor, noise: float, rng: torch.Generator) -> Tensor:
        """y0 + u (x - y0) + noise * eps, u uniform in [0, 1)."""
        share = uniform((*start.shape[:2], 1), rng, start)
        return start + share * (target - start) + noise * self.unit * gaussian(start.shape, rng, start)

    def ideal_energy(self, candidate: Tensor, target: Tensor) -> Tensor:
        """|y - x|^2 / 2, (B, T')."""
        return self.divergence(candidate, target)

    def clues(self, states: Tensor, starts: Callable[[], Tensor]) -> Tensor:
        """Logarithms (B, T, 9) of half the squared distances that the scene moved by, to the state before each and to
        that state, from it to where a prediction begins, and by which the last such beginning was wrong: what moves
        far, or now and then, is hard to foresee. And averages so far, of motions, of how much farther it is over
        several states than over one, and of how wrong beginnings were: what moves on is not what jumps about."""

        def log(distance: Tensor) -> Tensor:
            return (distance + self.numbers * self.alike).log()

        def over(count: int) -> Tensor:  # (B, T), nan where the state so long before is not known
            known = log(self.divergence(states[:, count:], states[:, :-count]))
            return F.pad(known, (count, 0), value=torch.nan)[:, : states.shape[1]]

        begun, moved = starts(), over(1)
        next_move = log(self.divergence(begun, states))
        before = F.pad(moved[:, :-1], (1, 0), value=torch.nan)
        missed = F.pad(log(self.divergence(states[:, 1:], begun[:, :-1])), (1, 0), value=torch.nan)
        averages = [moved, *(over(count) - moved for count in LONGER), missed - moved]
        return torch.stack([before, moved, next_move, missed, *(so_far(each) for each in averages)], -1)

    def clues_tried(self, tried: Tensor) -> Tensor:
        """None: (B, P, 0)."""
        return tried[..., :0]

    def copying(self) -> Reference:
        """Predicts the last state."""
        return Copy(self.distance)

    def references(self, training: Tensor) -> References:
        """Copying the last state, and the mean training state."""
        mean = Always(training.mean(0, dtype=torch.float64), self.distance)
        predictors = {"copying the last": self.copying(), "predicting the mean": mean}
        return References(predictors, mean="predicting the mean", copying="copying the last")


def so_far(numbers: Tensor) -> Tensor:
    """Means of those numbers (B, T) up to each that are known; nan where none is."""
    return numbers.nan_to_num().cumsum(1) / (~numbers.isnan()).cumsum(1)
