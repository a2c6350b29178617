"""What energies should mean beside leading downhill: terms of the training loss on the total energy F of candidates.

    regression      mean ((F(c) - d(c, x)) / N)^2 / 2, d half the squared distance to the truth, or the cross-entropy;
                    of a candidate between the start and some state, and of the prediction
    contrast        -ln softmax(-F)[x] of the truth among the states of the next window, of the position before, and a
                    near miss (InfoNCE, arXiv 1807.03748); a state that stands there too counts as false like any other
    regularization  mean (F / N)^2 / 2 of truth and of prediction

N is how many numbers a state has. An F that equals d on average has its minimum at the expected state, and there its
value is the uncertainty. Knows no descent and no network, only F.
"""

# B batch, T' positions, D state size

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ebwm_cli.model.state_space import StateSpace
from ebwm_cli.recipe.model import EnergiesSection

Total = Callable[[Tensor], Tensor]
"""total(candidate (B, T', D)) -> F (B, T'), with a graph to the energy's weights."""

PASSES = {"regression": 2, "contrast": 4, "regularization": 2}
"""Candidates per position whose energy a term looks at, and learns from."""


def energy_terms(
    wanted: EnergiesSection,
    space: StateSpace,
    total: Total,
    *,
    origin: Tensor,
    target: Tensor,
    final: Tensor,
    rng: torch.Generator,
) -> Iterator[Tensor]:
    """Weighted scalars, one after the other, so that each can be differentiated and dropped: of descents from `origin`
    (B, T', D) to `final` (B, T', D), towards the true states `target` (B, T', ...)."""
    if wanted.regression:
        between = space.between(origin, target, wanted.regression_noise, rng)
        for candidate in (between, final):
            off = (total(candidate) - space.ideal_energy(candidate, target)) / space.numbers
            yield wanted.regression / 2 * off.square().mean()
    if wanted.contrast:
        others = [target.roll(1, 1), *([target.roll(1, 0)] if len(target) > 1 else [])]
        candidates = [*(space.certain(each) for each in (target, *others)), space.near_miss(target, rng)]
        heights = torch.stack([total(each) for each in candidates], dim=-1)  # (B, T', 3 or 4)
        yield wanted.contrast * (heights[..., 0] + (-heights).logsumexp(-1)).mean()
    if wanted.regularization:
        for candidate in (space.certain(target), final):
            yield wanted.regularization / 2 * (total(candidate) / space.numbers).square().mean()
