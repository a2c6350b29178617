"""Who of (B, T') positions still moves: all at first, later n of them as (1, n). Knows no candidate."""

# B batch, T' candidate positions, n positions that go on

from __future__ import annotations

import torch
from torch import Tensor


class Crowd:
    """Positions, of which some have stopped. Where nobody `leaves`, who has stopped is computed on, and what comes of
    it is thrown away."""

    def __init__(self, leaves: bool = True) -> None:
        self.leaves = leaves
        self.index: Tensor | None = None  # (n,) of (B * T'), ascending; None: all
        self._going: Tensor | None = None  # (B, T') bool, where nobody leaves

    def go_on(self, going: Tensor) -> Tensor | None:
        """Go on with those of `going` (B, T') alone: which of those who moved so far they are, (n,); None: all."""
        if not self.leaves:
            self._going = going
            return None
        flat = going.flatten()
        here = flat if self.index is None else flat[self.index]
        if here.all():
            return None
        at = here.nonzero().squeeze(-1)
        self.index = at if self.index is None else self.index[at]
        return at

    def of(self, values: Tensor) -> Tensor:
        """Values (B, T', ...) of those who move."""
        return values if self.index is None else some(values, self.index)

    def spread(self, values: Tensor, onto: Tensor) -> Tensor:
        """`onto` (B, T', ...) with the values of those who move put in."""
        if self.index is not None:
            result = onto.clone()
            result.flatten(0, 1)[self.index] = values[0].to(result.dtype)
            return result
        if self._going is None:
            return values
        going = self._going
        return torch.where(going.reshape(*going.shape, *[1] * (values.ndim - 2)), values, onto)

    def count(self, counter: Tensor) -> None:
        """One more (B, T') for everyone who is computed."""
        if self.index is None:
            counter += 1
        else:
            counter.view(-1)[self.index] += 1


def some(values: Tensor, at: Tensor) -> Tensor:
    """Values (B, T', ...) of the positions `at` (n,), counted through them, as (1, n, ...)."""
    return values.flatten(0, 1)[at][None]
