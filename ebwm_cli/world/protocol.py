"""What every world model can do: learn from a batch, remember states, predict the next one.

Trainer, evaluator and scaler see these methods and no kind. Shapes: B batch, T positions, D state size,
K descent steps, M samples. `rng` is the only source of randomness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ebwm_cli.recipe.schema import ThinkSection


@dataclass(frozen=True)
class Prediction:
    """What thinking arrived at, for T' positions.

    `energies[..., k]` is the score (low: good) of the candidate before move k; the last one belongs to `state`. It is
    the total energy, or the denoising error; a world that can't judge gives one 0. A position that stopped early
    repeats its last energy and makes moves of size 0.
    """

    state: Tensor  # (B, T', D) the chosen next state
    start: Tensor  # (B, T', D) where the chosen descent began
    energies: Tensor  # (B, T', K+1)
    moves: Tensor  # (B, T', K) root mean square of each move
    steps_used: Tensor  # (B, T') int64
    sample_states: Tensor  # (B, T', M, D) every sample's final state
    sample_energies: Tensor  # (B, T', M)
    sample_gaps: Tensor  # (B, T', M) how far each sample's energy fell
    looks: Tensor  # (B, T') int64 energies computed and differentiated, over all samples
    tries: Tensor  # (B, T') int64 energies only computed
    path: Tensor | None = None  # (B, T', K+1, D) candidates, where recorded
    origin: Tensor | None = None  # (B, T', D) what the anchor pulled to; None: the start
    bare_energies: Tensor | None = None  # (B, T', K+1) as the descent went by them, where those above are levelled
    keep: Callable[[Tensor, Tensor], Prediction] | None = None
    """keep(index (n, T'), items (n,)): the prediction that keeps these samples of these batch items instead; None where
    there is one way only."""

    @property
    def energy(self) -> Tensor:
        """Final total energy of the chosen state, (B, T')."""
        return self.energies[..., -1]

    @property
    def bare(self) -> Tensor:
        """The energies (B, T', K+1) that the descent went by: what falls of them, rises or settles is told by these."""
        return self.energies if self.bare_energies is None else self.bare_energies


@runtime_checkable
class WorldModel(Protocol):
    """A trainable world model; every implementation is also an `nn.Module`."""

    measures: tuple[str, ...]
    """What `loss` measures beside itself."""
    score: str | None
    """What its energies are, in words; None where it predicts in one pass, judges nothing, and thinks no longer."""

    def loss(
        self, states: Tensor, rng: torch.Generator, shared: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss of windows `states` (B, T+1, D) as a scalar to call `.backward()` on, and its `measures` as
        0-dim tensors. Where they are part of a batch, what its parts must agree on is drawn from `shared`, not `rng`.
        """
        ...

    def observe(self, states: Tensor, memory: Any = None) -> Any:
        """Remember `states` (B, T, D) after those in `memory`; returns a new Memory, the old one stays valid."""
        ...

    def predict(
        self,
        memory: Any,
        think: ThinkSection,
        rng: torch.Generator,
        *,
        positions: int | None = None,
        record: bool = False,
    ) -> Prediction:
        """Predict the state after each of the last `positions` remembered ones (None: all of them)."""
        ...

    def settling_drop(self, think: ThinkSection) -> Tensor | None:
        """The drop of the score, 0-dim, that `think.tolerance` is a fraction of at every position; None: each goes by
        its own so far."""
        ...

    def hidden(self, candidate: Tensor, memory: Any) -> Tensor:
        """Final hidden states (B, T', W) of the last T' positions while they hold `candidate` (B, T', D)."""
        ...


class Judged(Protocol):
    """`Judge.judge` after one Memory."""

    def __call__(self, candidate: Tensor, start: Tensor | None = None, like: Tensor | None = None) -> Tensor:
        """Score (B, T') of `candidate` (B, T', D); measured as that of `like` (B, T', D) is, where what a score is
        measured in depends on the candidate, so that all candidates of a descent, or of a landscape, compare."""
        ...


@runtime_checkable
class Judge(Protocol):
    """A world model that can score any candidate next state: by its energy, or by its denoising error."""

    def judging(self, memory: Any, positions: int) -> Judged:
        """`judge` of any number of candidates after the last `positions` states: what they share is done once."""
        ...

    def judge(self, candidate: Tensor, memory: Any, start: Tensor | None = None) -> Tensor:
        """Score (B, T') of `candidate` (B, T', D) as next states of the last T' remembered positions, low =
        compatible. `start` is what the anchor pulls to; None takes the state space's own start without noise."""
        ...
