"""What a state is: how it enters the network, where descent starts, how it moves, how far two states are apart.

One for each modality (`model/latent_space.py`, `model/token_space.py`). A state space knows no network and no sampler;
the sampler sees its `point`, `move` and `divergence` only.
"""

# B batch, T observed positions, T' candidate positions, D state size, W width

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from ebwm_cli.model.references import Reference, References

NEAR_MISS = 0.1
"""How wrong a near miss is: std of its noise, in stds of the states; or the probability of another token."""


class StateSpace(Protocol):
    """What energies, trainers and evaluators need of a state; one implementation per modality, all `nn.Module`s.

    A true state is a row of `states` (B, T, ...); a candidate (B, T', D) is what descent moves, a point (B, T', ...)
    where the energy is evaluated.
    """

    forecasts: bool
    """Whether `start` is a forecast of its own, to be learned."""
    unit: float
    """Std of the numbers of a point."""
    noise_shift: float
    """Noise over signal, n / s, in the middle of a schedule, t = 0.5: as much as points can still be told apart through
    (shifted schedules, arXiv 2301.11093)."""
    in_nats: bool
    """Whether `distance` is -ln p(target), so that exp of its mean is a perplexity."""

    def embed_observed(self, states: Tensor, before: Tensor) -> Tensor:
        """True states and the states before them -> (B, T, W)."""
        ...

    def embed_candidate(self, point: Tensor) -> Tensor:
        """Points -> (B, T', W)."""
        ...

    def learned_parameters(self) -> Iterable[nn.Parameter]:
        """What `start`, `point`, `embed_candidate` and `move` depend on."""
        ...

    def start(self, states: Tensor, hidden: Tensor, rng: torch.Generator) -> Tensor:
        """Candidates before step 0, after `states` (B, T', ...) whose hidden states are (B, T', W)."""
        ...

    def forecast(self, states: Tensor, hidden: Tensor) -> Tensor:
        """Candidates (B, T', D) that the head reads from hidden states (B, T', W) after `states` (B, T', ...)."""
        ...

    def blank(self, states: Tensor) -> Tensor:
        """Candidates (B, T', D) that say nothing yet: the mean state, or all tokens alike."""
        ...

    def point(self, candidate: Tensor) -> Tensor:
        """Where the energy of a candidate is evaluated and differentiated."""
        ...

    def point_of(self, states: Tensor) -> Tensor:
        """The points of true states (B, T', ...)."""
        ...

    def move(self, candidate: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        """The candidate after a move of `length` against the energy's `gradient` at its point."""
        ...

    def divergence(self, candidate: Tensor, start: Tensor) -> Tensor:
        """D(candidate, start), (B, T')."""
        ...

    def distance(self, candidate: Tensor, target: Tensor) -> Tensor:
        """Prediction loss (B, T') against true states."""
        ...

    def commit(self, candidate: Tensor) -> Tensor:
        """The true state (B, T', ...) a candidate stands for, to be remembered."""
        ...

    def certain(self, states: Tensor) -> Tensor:
        """The candidate (B, T', D) that stands for true states (B, T', ...)."""
        ...

    def near_miss(self, states: Tensor, rng: torch.Generator, share: float = NEAR_MISS) -> Tensor:
        """Candidates (B, T', D) that are wrong by `share`, above 0 and below 1: what true states (B, T', ...) look like
        to a careless judge."""
        ...

    def near_miss_words(self, share: float = NEAR_MISS) -> str:
        """What near misses are, in words."""
        ...

    def average(self, candidates: Tensor) -> Tensor:
        """One candidate (B, T', D) that stands for several (B, T', M, D)."""
        ...

    def doubt(self, candidate: Tensor, states: Tensor) -> Tensor:
        """How unsure a prediction after `states` looks without its energy, (B, T'): the trivial predictor of error."""
        ...

    def between(self, start: Tensor, target: Tensor, noise: float, rng: torch.Generator) -> Tensor:
        """Random candidates (B, T', D) on the way from `start` (B, T', D) to true states, with noise of that std."""
        ...

    def ideal_energy(self, candidate: Tensor, target: Tensor) -> Tensor:
        """What the total energy (B, T') of a candidate would be if it said how wrong that is."""
        ...

    def clues(self, states: Tensor, starts: Callable[[], Tensor]) -> Tensor:
        """Numbers (B, T, `clue_count`) that tell how wrong predictions may be that begin at `starts()` (B, T, D) after
        each of `states` (B, T, ...); nan where not known. The last `average_count` of them, of all states so far, also
        tell whether these come in an order that worlds have."""
        ...

    def clues_tried(self, tried: Tensor) -> Tensor:
        """Such numbers (B, P, `tried_count`) as candidates (B, P, D) tell after their first moves."""
        ...

    clue_count: int
    average_count: int
    tried_count: int
    numbers: int
    """How many numbers of a state its energy is summed over."""
    alike: float
    """An energy per number below which ideal ones are hardly told apart."""
    doubt_name: str
    """What `doubt` is, in words."""

    def copying(self) -> Reference | None:
        """The predictor that nothing changes, where that means anything."""
        ...

    def references(self, training: Tensor) -> References:
        """Predictors fitted to the training states (N, ...)."""
        ...


def differ(states: Tensor, others: Tensor) -> Tensor:
    """Where two series of states (B, S, ...) hold another state at all, (B, S) bool."""
    return (states != others).flatten(2).any(-1) if states.ndim > 2 else states != others


def gaussian(shape: torch.Size | tuple[int, ...], rng: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal numbers from `rng`, on the device and in the dtype of `like`."""
    return torch.randn(shape, generator=rng, device=rng.device).to(like.device, like.dtype)


def uniform(shape: torch.Size | tuple[int, ...], rng: torch.Generator, like: Tensor) -> Tensor:
    """Numbers uniform in [0, 1) from `rng`, on the device and in the dtype of `like`."""
    return torch.rand(shape, generator=rng, device=rng.device).to(like.device, like.dtype)
