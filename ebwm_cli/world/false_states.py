"""States that do not come next: what energies are fitted against, and what they are judged by."""

# B windows, C context, D state size

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ebwm_cli.model.state_space import StateSpace, differ

OTHER, TWO_AHEAD = "other", "two_ahead"


def states_from_elsewhere(space: StateSpace, states: Tensor, others: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Next states of other windows (B, C+1, ...) and those two steps ahead, as candidates (B, C, D) after the contexts
    of windows (B, C+1, ...), one kind at a time as each is large, and where (B, C) they are false."""
    truth = states[:, 1:]
    yield OTHER, space.certain(others[:, 1:]), differ(others[:, 1:], truth)
    ahead = torch.cat([states[:, 2:], states[:, -1:]], dim=1)  # a window ends before the last one: it is never used
    yield TWO_AHEAD, space.certain(ahead), differ(ahead, truth)


def shuffle(states: Tensor, order: Tensor) -> Tensor:
    """States (B, C, ...) in the `order` (B, C)."""
    return states[torch.arange(len(states), device=states.device)[:, None], order]
