"""How weights are updated: AdamW groups, and the learning rate as a pure function of the step.

lr(step) = peak * (step+1)/warmup, then peak * (f + (1-f) * (1 + cos(pi * progress)) / 2). Where a training ends by the
clock, the step is the one it would be at by then: steps times the fraction of the time that is spent. Knows no model
but its parameters' names.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from ebwm_cli.recipe.schema import TrainSection


def learning_rate(step: int, train: TrainSection, fraction: float | None = None) -> float:
    """Rate of update number `step`, counted from 0: linear warm-up, then a cosine down to a fraction of the peak.

    Where `fraction` (0 to 1) of the training is said to be over, that is what counts, whatever the step.
    """
    at = step if fraction is None else fraction * train.steps
    if at < train.warmup:
        return train.learning_rate * min(at + 1, train.warmup) / train.warmup
    progress = min((at - train.warmup) / max(train.steps - train.warmup, 1), 1.0)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return train.learning_rate * (train.final_lr_fraction + (1 - train.final_lr_fraction) * cosine)


def build_optimizer(world: nn.Module, train: TrainSection) -> torch.optim.AdamW:
    """AdamW (0.9, beta2) in three kinds of groups: matrices decay, vectors don't, and parameters that the world names
    in `relative_rates` learn at a rate proportional to their own value."""
    relative: dict[str, float] = world.relative_rates() if hasattr(world, "relative_rates") else {}  # type: ignore[operator]
    matrices, vectors, groups = [], [], []
    for name, parameter in world.named_parameters():
        if not parameter.requires_grad:
            continue
        if name in relative:
            groups.append({"params": [parameter], "weight_decay": 0.0, "relative_rate": relative[name]})
        else:
            (matrices if parameter.ndim >= 2 else vectors).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": train.weight_decay, "relative_rate": 0.0},
        {"params": vectors, "weight_decay": 0.0, "relative_rate": 0.0},
        *groups,
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=train.learning_rate, betas=(0.9, train.beta2), fused=True)


def set_learning_rate(
    optimizer: torch.optim.Optimizer, step: int, train: TrainSection, fraction: float | None = None
) -> float:
    """Give every group its rate for update number `step` (see `learning_rate`); returns the common one."""
    rate = learning_rate(step, train, fraction)
    for group in optimizer.param_groups:
        relative = group["relative_rate"]
        group["lr"] = rate * relative * abs(group["params"][0].item()) if relative else rate
    return rate
