"""Predict every state of held-out windows and say how far off each was; roll out by feeding predictions back.

error = space.distance(predicted, true) per window and position; a rollout appends each prediction to the Memory. Works
through `WorldModel` alone: it knows no kind, and it neither reads nor writes files.
"""

# W windows, C context, B batch, D state size, H horizon

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebwm_cli.data.encoders import Encoder
from ebwm_cli.data.loader import Loader
from ebwm_cli.data.store import Split
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import LoadedWorld
from ebwm_cli.world.protocol import Prediction, WorldModel

Floats = NDArray[np.float64]
POSITIONS_AT_ONCE = 1024
"""Candidates that descend together: bounds memory, changes no number."""


@dataclass(frozen=True)
class Scores:
    """What thinking with one budget gave on every window and position, (W, C) each."""

    errors: Floats
    energies: Floats
    """Final total energy of the state that was kept."""
    moves: Floats
    """Root mean square distance from the last observed state to the predicted one, in state units."""
    sample_mean_errors: Floats
    """Of the mean of all samples."""
    sample_random_errors: Floats
    """Expected, of a sample picked blindly."""
    seconds: float
    """Per predicted state, observing included."""


def predict_windows(loaded: LoadedWorld, split: Split, think: ThinkSection, seed: int) -> Scores:
    """Predict all positions of all windows of `split`, on the device `loaded` is on."""
    world, space = loaded.world, loaded.space
    rng = torch.Generator().manual_seed(seed)
    columns: list[list[Tensor]] = [[], [], [], [], []]
    seconds = 0.0
    for states in held_out_batches(loaded, split, think.samples):
        context, truth = states[:, :-1], states[:, 1:]
        began = time.perf_counter()
        prediction = world.predict(world.observe(context), think, rng)
        _wait(states)
        seconds += time.perf_counter() - began
        samples = prediction.sample_states  # (B, C, M, D)
        picked_blindly = [space.distance(samples[:, :, m], truth) for m in range(think.samples)]
        rows = (
            space.distance(prediction.state, truth),
            prediction.energy,
            (prediction.state - context).square().mean(-1).sqrt(),
            space.distance(samples.mean(2), truth),
            torch.stack(picked_blindly).mean(0),
        )
        for column, row in zip(columns, rows, strict=True):
            column.append(row.cpu())
    tables = [torch.cat(column).double().numpy() for column in columns]
    return Scores(*tables, seconds=seconds / max(tables[0].size, 1))


def constant_errors(loaded: LoadedWorld, split: Split, mean_state: Tensor) -> tuple[Floats, Floats]:
    """Errors (W, C) of two predictors that need no model: copying the last state, and `mean_state` (D,) always."""
    copied, averaged = [], []
    for states in held_out_batches(loaded, split):
        context, truth = states[:, :-1], states[:, 1:]
        copied.append(loaded.space.distance(context, truth).cpu())
        averaged.append(loaded.space.distance(mean_state.to(states).expand_as(truth), truth).cpu())
    return torch.cat(copied).double().numpy(), torch.cat(averaged).double().numpy()


def held_out_batches(loaded: LoadedWorld, split: Split, samples: int = 1) -> Iterator[Tensor]:
    """All windows (B, C+1, D) in order, without gradients, as many at once as POSITIONS_AT_ONCE allows."""
    batch_size = max(1, POSITIONS_AT_ONCE // (loaded.spec.context * samples))
    with torch.no_grad():
        for batch in Loader.sequential(split, batch_size, loaded.spec.context):
            yield batch.states.to(device_of(loaded))


@torch.no_grad()
def roll_out(
    world: WorldModel,
    observed: Tensor,
    think: ThinkSection,
    rng: torch.Generator,
    horizon: int,
    *,
    record: bool = False,
) -> list[Prediction]:
    """Predict `horizon` states after `observed` (B, T, D), each remembered before the next; (B, 1, ...) each."""
    memory = world.observe(observed)
    predictions = []
    for ahead in range(horizon):
        if ahead:
            memory = world.observe(predictions[-1].state, memory)
        predictions.append(world.predict(memory, think, rng, positions=1, record=record))
    return predictions


@dataclass(frozen=True)
class RolloutScores:
    """How rollouts went, by horizon 1 .. H, (H,) each."""

    errors: Floats
    copy_last_errors: Floats
    squared_pixel_errors: Floats
    """Mean over pixels of decoded frames against decoded truth, of pixel values 0 .. 255."""


def roll_out_windows(loaded: LoadedWorld, split: Split, think: ThinkSection, horizon: int, seed: int) -> RolloutScores:
    """Roll out the last `horizon` states of every window from those before them."""
    rng = torch.Generator().manual_seed(seed)
    sums, windows = np.zeros((3, horizon)), 0
    for states in held_out_batches(loaded, split, think.samples):
        observed, truth = states[:, :-horizon], states[:, -horizon:]
        predicted = torch.cat([p.state for p in roll_out(loaded.world, observed, think, rng, horizon)], dim=1)
        copied = observed[:, -1:].expand_as(truth)
        sums[0] += loaded.space.distance(predicted, truth).sum(0).double().cpu().numpy()
        sums[1] += loaded.space.distance(copied, truth).sum(0).double().cpu().numpy()
        sums[2] += _squared_pixel_errors(loaded.encoder, predicted, truth).sum(0)
        windows += len(states)
    return RolloutScores(*(sums / max(windows, 1)))


def device_of(loaded: LoadedWorld) -> torch.device:
    """Where a world's weights are, and its states must go."""
    return next(loaded.world.parameters()).device


def psnr(squared_pixel_error: float) -> float | None:
    """10 log10(255^2 / mean squared error) in dB; None where frames are equal, as it is infinite."""
    return float(10 * np.log10(255.0**2 / squared_pixel_error)) if squared_pixel_error > 0 else None


def decode(encoder: Encoder, states: Tensor) -> NDArray[np.uint8]:
    """Frames (..., S, S, 3) that look like states (..., D)."""
    frames = encoder.decode(states.reshape(-1, states.shape[-1]).float().cpu().numpy())
    return frames.reshape(*states.shape[:-1], *frames.shape[1:])


def _squared_pixel_errors(encoder: Encoder, predicted: Tensor, truth: Tensor) -> Floats:
    """(B, H) from states (B, H, D)."""
    wrong = decode(encoder, predicted).astype(np.float64) - decode(encoder, truth).astype(np.float64)
    return (wrong**2).mean((-3, -2, -1))


def _wait(like: Tensor) -> None:
    """Let an asynchronous device finish, so that a clock read next is true."""
    if like.device.type == "cuda":
        torch.cuda.synchronize(like.device)
    elif like.device.type == "mps":
        torch.mps.synchronize()
