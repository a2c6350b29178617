"""Predictors that need no network, which every model is held against: copying the last state, and one state always.

Those of text count tokens (`ngram`).
"""

# B batch, T positions, D state size

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class Reference(Protocol):
    """A predictor that needs no network."""

    def loss(self, context: Tensor, target: Tensor) -> Tensor:
        """Losses (B, T) of predicting `target` (B, T, ...) from the states `context` (B, T, ...) before each."""
        ...


class References(NamedTuple):
    """The predictors every model of this kind of state is held against, by name."""

    predictors: dict[str, Reference]
    """The one to beat first."""
    mean: str
    """Which of them predicts the mean training state, whatever came before."""
    copying: str | None = None
    """Which of them predicts that nothing changes, where that means anything."""


class Copy:
    """Predicts that nothing changes."""

    def __init__(self, distance: Distance) -> None:
        self._distance = distance

    def loss(self, context: Tensor, target: Tensor) -> Tensor:
        return self._distance(context, target)


class Always:
    """Predicts one state (D,) always."""

    def __init__(self, state: Tensor, distance: Distance) -> None:
        self._state, self._distance = state, distance

    def loss(self, context: Tensor, target: Tensor) -> Tensor:
        return self._distance(self._state.to(target).expand_as(target), target)


class Distance(Protocol):
    def __call__(self, candidate: Tensor, target: Tensor) -> Tensor: ...
