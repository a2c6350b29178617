"""Rollouts: predict a state, remember it, predict the next; several futures side by side where a beam is asked for.

A sequence's energy is the sum of its states' final energies; of all samples of all sequences the `think.beam` lowest
are kept, and the lowest of all is the prediction. Works through `WorldModel` alone.
"""

# B windows, S sequences kept of each, M samples, H horizon, D state size

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import LoadedWorld
from ebwm_cli.world.protocol import Prediction, WorldModel


@torch.no_grad()
def roll_out(
    loaded: LoadedWorld,
    observed: Tensor,
    think: ThinkSection,
    rng: torch.Generator,
    horizon: int,
    *,
    record: bool = False,
) -> list[Prediction]:
    """Predict `horizon` states after `observed` (B, T, ...), each remembered before the next; (B, 1, ...) each."""
    world: WorldModel = loaded.world
    memory: Any = world.observe(observed)
    predictions: list[Prediction] = []
    came_from: list[Tensor] = []  # by state, rows of the one before
    total = torch.zeros(len(observed), 1, device=observed.device)  # (B, S) energies of the sequences so far
    for ahead in range(horizon):
        if ahead:
            memory = world.observe(loaded.space.commit(predictions[-1].state), memory)
        prediction = world.predict(memory, think, rng, positions=1, record=record)
        if think.beam > 1 and think.samples > 1 and prediction.keep:
            prediction, rows, total = _keep(prediction, total, think.beam)
            memory = memory.rows(rows)
            came_from.append(rows)
        predictions.append(prediction)
    if not came_from:
        return predictions
    kept = total.shape[1]
    row = torch.arange(len(observed), device=observed.device) * kept  # the best sequence of each window comes first
    chosen: list[Prediction] = []
    for prediction, before in zip(reversed(predictions), reversed(came_from), strict=True):
        chosen.append(_rows(prediction, row))
        row = before[row]
    return chosen[::-1]


def _keep(prediction: Prediction, total: Tensor, beam: int) -> tuple[Prediction, Tensor, Tensor]:
    """Of all samples (B*S, 1, M) after sequences of energies `total` (B, S): those of the lowest sums, best first; the
    rows they came from, and their sums."""
    energies = prediction.sample_energies[:, 0]  # (B*S, M)
    windows, samples = len(total), energies.shape[1]
    looks, tries = (each.reshape(windows, -1).sum(1) for each in (prediction.looks, prediction.tries))
    sums = (total.reshape(-1, 1) + energies).reshape(windows, -1)  # (B, S*M)
    sums = sums.nan_to_num(nan=float("inf"))
    best, index = sums.topk(min(beam, sums.shape[1]), largest=False)  # (B, S')
    first = torch.arange(windows, device=total.device)[:, None] * total.shape[1]
    rows = (first + index // samples).reshape(-1)
    assert prediction.keep is not None
    kept = prediction.keep((index % samples).reshape(-1, 1), rows)
    spent = {name: each[:, None].expand_as(best).reshape(-1, 1) for name, each in (("looks", looks), ("tries", tries))}
    return replace(kept, **spent), rows, best  # those that were not kept were looked at too


def _rows(prediction: Prediction, rows: Tensor) -> Prediction:
    """The predictions of these batch items."""
    named = {each.name: getattr(prediction, each.name) for each in fields(prediction)}
    return replace(prediction, **{name: value[rows] for name, value in named.items() if isinstance(value, Tensor)})
