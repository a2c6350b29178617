"""One update of the weights, and what it draws from.

gradient = sum over parts of d(loss of the part)/dw / parts; clipped to a norm; AdamW. Randomness is a pure function of
(seed, step), and each part of a batch starts from the same generator state: all parts draw the same step counts, so the
cut changes no number where the recipe draws nothing per item. Knows no file and no kind.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebwm_cli.recipe.schema import TrainSection
from ebwm_cli.world.optim import set_learning_rate
from ebwm_cli.world.protocol import WorldModel


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


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator (CPU, so that every device draws the same) of update `step` under `seed`."""
    digest = hashlib.sha256(f"{seed}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def gradient(world: nn.Module, states: Tensor, *, parts: int, seed: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Put the gradient of the mean loss of windows `states` (B, T+1, D), cut into `parts`, into the parameters.

    Returns the loss and the world's measures, 0-dim tensors on the device.
    """
    assert isinstance(world, WorldModel)
    totals: dict[str, Tensor] = {}
    for part in states.chunk(parts):
        loss, measures = world.loss(part, step_generator(seed, step))
        weight = len(part) / len(states)
        (loss * weight).backward()
        for name, value in {"loss": loss.detach(), **measures}.items():
            totals[name] = totals.get(name, torch.zeros((), device=states.device)) + weight * value
    return totals.pop("loss"), totals


def update_weights(
    world: nn.Module,
    optimizer: torch.optim.Optimizer,
    states: Tensor,
    *,
    train: TrainSection,
    seed: int,
    step: int,
    fraction: float | None = None,
) -> Update:
    """Make update number `step`, counted from 0, with windows `states` (B, T+1, D); skip it where it isn't finite.

    `fraction` of the training is over, where not steps but a clock ends it.
    """
    optimizer.zero_grad(set_to_none=True)
    loss, measures = gradient(world, states, parts=train.accumulate, seed=seed, step=step)
    norm = nn.utils.clip_grad_norm_(world.parameters(), train.clip_norm or math.inf)
    set_learning_rate(optimizer, step, train, fraction)
    values = torch.stack([loss, norm, *measures.values()]).tolist()  # the only wait for the device
    update = Update(values[0], values[1], dict(zip(measures, values[2:], strict=True)))
    if update.finite:
        optimizer.step()
    return update
