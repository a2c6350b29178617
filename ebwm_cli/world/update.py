"""One update of the weights, and what it draws from.

gradient = sum over parts of d(loss of the part)/dw / parts; clipped to a norm, or to a multiple of what norms were of
late; AdamW. Randomness is a pure function of (seed, step, part): all parts of a batch draw the same step counts, so the
cut changes no number where the recipe draws nothing per item, and each part noise of its own, as windows of one part
do. Where several ranks share an update, their windows are parts too. Knows no file and no kind.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ebwm_cli.recipe.schema import TrainSection
from ebwm_cli.world.observing import ObservingWorld
from ebwm_cli.world.optim import set_learning_rate
from ebwm_cli.world.protocol import WorldModel

NORM_DECAY = 0.98
"""Of the running mean of gradients' norms, per update."""


class Together(Protocol):
    """Ranks that make an update together."""

    @property
    def size(self) -> int:
        """How many they are."""
        ...

    @property
    def rank(self) -> int:
        """Which of them this is, from 0."""
        ...

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks."""
        ...


@dataclass(frozen=True)
class Update:
    """What one update measured. Where loss or gradient is not finite, no weight has moved."""

    loss: float
    grad_norm: float
    """Of the whole gradient, before clipping."""
    measures: dict[str, float]
    """What the world measures beside its loss, by name."""

    @property
    def finite(self) -> bool:
        """Whether the weights moved."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def step_generator(seed: int, step: int, part: int = 0) -> torch.Generator:
    """The generator (CPU, so that every device draws the same) of a part of update `step` under `seed`."""
    digest = hashlib.sha256((f"{seed}/{step}/{part}" if part else f"{seed}/{step}").encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def gradient(
    world: nn.Module, states: Tensor, *, parts: int, seed: int, step: int, share: float = 1.0, first: int = 0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Put the gradient of the mean loss of windows `states` (B, T+1, D), cut into `parts`, into the parameters; of a
    `share` of it, where they are only so much of a batch, whose parts before these are `first`.

    Returns (the share of) the loss and the world's measures, 0-dim tensors on the device.
    """
    assert isinstance(world, WorldModel)
    totals: dict[str, Tensor] = {}
    for number, part in enumerate(states.chunk(parts), first):
        shared = step_generator(seed, step) if number else None
        loss, measures = world.loss(part, step_generator(seed, step, number), shared)
        weight = share * len(part) / len(states)
        (loss * weight).backward()
        for name, value in {"loss": loss.detach(), **measures}.items():
            totals[name] = totals.get(name, torch.zeros((), device=states.device)) + weight * value
    return totals.pop("loss"), totals


def norm_of_late(before: float | None, norm: float) -> float:
    """Running geometric mean of gradients' norms, which a spike hardly moves; None is that of no update."""
    if not before or not norm:
        return before or norm
    return math.exp(NORM_DECAY * math.log(before) + (1 - NORM_DECAY) * math.log(norm))


def update_weights(
    world: nn.Module,
    optimizer: torch.optim.Optimizer,
    states: Tensor,
    *,
    train: TrainSection,
    seed: int,
    step: int,
    fraction: float | None = None,
    usual_norm: float | None = None,
    ranks: Together | None = None,
) -> Update:
    """Make update number `step`, counted from 0, with windows `states` (B, T+1, D); skip it where it isn't finite.

    `fraction` of the training is over, where not steps but a clock ends it. `usual_norm` is what gradients' norms were
    of late, by which spikes are clipped; None knows of none. `ranks` make it together, each with its own B windows:
    every one makes as many of the parts, and all arrive at the same weights.
    """
    optimizer.zero_grad(set_to_none=True)
    size = ranks.size if ranks else 1
    parts = math.ceil(train.accumulate / size)
    first = ranks.rank * parts if ranks else 0
    loss, measures = gradient(world, states, parts=parts, seed=seed, step=step, share=1 / size, first=first)
    if ranks and size > 1:  # all draw the same step counts, so the same parameters have gradients
        gradients = [parameter.grad for parameter in world.parameters() if parameter.grad is not None]
        ranks.add_up([loss, *measures.values(), *gradients])
    limits = [train.clip_norm, train.clip_spikes * (usual_norm or 0.0)]
    norm = nn.utils.clip_grad_norm_(world.parameters(), min((limit for limit in limits if limit), default=math.inf))
    set_learning_rate(optimizer, step, train, fraction)
    values = torch.stack([loss, norm, *measures.values()]).tolist()
    update = Update(values[0], values[1], dict(zip(measures, values[2:], strict=True)))
    if update.finite:
        optimizer.step()
        if isinstance(world, ObservingWorld):
            world.learned(update.measures)
    return update
