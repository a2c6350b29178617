"""Predict every state of held-out windows and say how far off each was; roll out by feeding predictions back.

error = space.distance(predicted, true) per window and position; a rollout appends each prediction to the Memory. Works
through `WorldModel` alone: it knows no kind, and it neither reads nor writes files.
"""

# W windows, C context, S predictions per window, B batch, D state size, H horizon

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebwm_cli.data.encoders import Encoder, FrameEncoder, Tokenizer
from ebwm_cli.data.loader import Loader
from ebwm_cli.data.store import Split
from ebwm_cli.model.references import Reference
from ebwm_cli.model.state_space import StateSpace
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.run.checkpoint import LoadedWorld
from ebwm_cli.run.held_out_loss import windows_at_once
from ebwm_cli.run.rollout import roll_out
from ebwm_cli.sampler.selection import lowest_energy, take

Floats = NDArray[np.float64]
ROUNDING = 2e-6
"""Of the largest energy, what may be lost in summing one up in fp32: a rise of less is none. Of the largest, as a total
near 0 may be the sum of terms that are not."""
MOST_NATS = 700.0
"""exp of more is no float."""


@dataclass(frozen=True)
class Scores:
    """What thinking with one budget gave on every window and predicted position, (W, S) each."""

    errors: Floats
    energies: Floats
    """Final total energy of the state that was kept."""
    bare: Floats
    """The same as its descent went by it, where that is levelled."""
    doubts: Floats
    """The trivial predictor of error, as the state space has it."""
    sample_mean_errors: Floats
    """Of the mean of all samples."""
    sample_random_errors: Floats
    """Expected, of a sample picked blindly."""
    sample_gap_errors: Floats
    """Of the sample whose energy fell most."""
    steps_used: Floats
    """Of the sample that was kept."""
    looks: Floats
    """Energies computed and differentiated, over all samples."""
    tries: Floats
    """Energies only computed."""
    rises: Floats
    """How many of the moves of the kept sample raised its score, rounding aside."""
    seconds: float
    """Per predicted state, observing included."""


@dataclass(frozen=True)
class HeldOut:
    """Which predictions are judged: the last `stride` of windows that begin as many states apart, at most `most`
    windows, evenly spread."""

    split: Split
    stride: int
    most: int | None = None


def predict_windows(loaded: LoadedWorld, held_out: HeldOut, think: ThinkSection, seed: int) -> Scores:
    """Predict `held_out`, on the device `loaded` is on."""
    world, space, stride = loaded.world, loaded.space, held_out.stride
    rng = torch.Generator().manual_seed(seed)
    columns: list[list[Tensor]] = [[] for _ in range(10)]
    paths: list[Tensor] = []
    seconds = 0.0
    _warm_up(loaded, held_out, think)
    for states in held_out_batches(loaded, held_out, think.samples):
        truth = states[:, -stride:]
        began = time.perf_counter()
        prediction = world.predict(world.observe(states[:, :-1]), think, rng, positions=stride)
        _wait(states)
        seconds += time.perf_counter() - began
        samples = prediction.sample_states  # (B, S, M, D)
        every = torch.stack([space.distance(samples[:, :, m], truth) for m in range(think.samples)], -1)  # (B, S, M)
        rows = (
            space.distance(prediction.state, truth),
            prediction.energy,
            prediction.bare[..., -1],
            space.doubt(prediction.state, states[:, -stride - 1 : -1]),
            space.distance(space.average(samples), truth),
            every.mean(-1),
            take(every, lowest_energy(-prediction.sample_gaps)),
            prediction.steps_used,
            prediction.looks,
            prediction.tries,
        )
        for column, row in zip(columns, rows, strict=True):
            column.append(row.cpu())
        paths.append(prediction.bare.cpu())
    tables = [torch.cat(column).double().numpy() for column in columns]
    return Scores(*tables, rises=rises(paths), seconds=seconds / max(tables[0].size, 1))


def rises(paths: Sequence[Tensor]) -> Floats:
    """How many moves raised a score, whose paths (B, S, K+1) may end early, by more than rounding does, (W, S)."""
    known = [path[path.isfinite()].abs() for path in paths]
    largest = max((each.max().item() for each in known if each.numel()), default=0.0)
    return torch.cat([(path.diff(dim=-1) > ROUNDING * largest).sum(-1) for path in paths]).double().numpy()


def reference_errors(loaded: LoadedWorld, held_out: HeldOut, reference: Reference) -> Floats:
    """Errors (W, S) of a predictor that needs no network, on the same predictions."""
    rows, stride = [], held_out.stride
    for states in held_out_batches(loaded, held_out):
        rows.append(reference.loss(states[:, -stride - 1 : -1], states[:, -stride:]).cpu())
    return torch.cat(rows).double().numpy()


def held_out_batches(loaded: LoadedWorld, held_out: HeldOut, samples: int = 1) -> Iterator[Tensor]:
    """Windows (B, C+1, ...) in order, without gradients, as many at once as memory allows."""
    spec = loaded.spec
    batch_size = windows_at_once(spec.context, samples, spec.state_dim)
    with torch.no_grad():
        for batch in Loader.sequential(held_out.split, batch_size, spec.context, held_out.stride, held_out.most):
            yield batch.states.to(device_of(loaded))


def perplexity(space: StateSpace, loss: float) -> float | None:
    """exp(mean loss), where the loss is in nats."""
    return math.exp(min(loss, MOST_NATS)) if space.in_nats else None


def bits_per_byte(encoder: Encoder, tokens: NDArray[np.integer[Any]], nats: Floats) -> float | None:
    """Total loss in bits over the bytes of the tokens predicted; None where states are not bytes of anything."""
    if not isinstance(encoder, Tokenizer):
        return None
    spent = int(encoder.token_lengths()[tokens].sum())
    return float(nats.sum()) / math.log(2) / spent if spent else None


@dataclass(frozen=True)
class RolloutScores:
    """How rollouts went, by horizon 1 .. H, (H,) each."""

    errors: Floats
    squared_pixel_errors: Floats | None
    """Mean over pixels of decoded frames against decoded truth, of pixel values 0 .. 255; None without frames."""


def roll_out_windows(
    loaded: LoadedWorld, held_out: HeldOut, think: ThinkSection, horizon: int, seed: int
) -> RolloutScores:
    """Roll out the last `horizon` states of every window from those before them."""
    rng = torch.Generator().manual_seed(seed)
    sums, windows = np.zeros((2, horizon)), 0
    frames = loaded.encoder if isinstance(loaded.encoder, FrameEncoder) else None
    for states in held_out_batches(loaded, held_out, think.samples):
        observed, truth = states[:, :-horizon], states[:, -horizon:]
        predicted = torch.cat([p.state for p in roll_out(loaded, observed, think, rng, horizon)], dim=1)
        sums[0] += loaded.space.distance(predicted, truth).sum(0).double().cpu().numpy()
        if frames:
            sums[1] += _squared_pixel_errors(frames, predicted, truth).sum(0)
        windows += len(states)
    errors, pixels = sums / max(windows, 1)
    return RolloutScores(errors, pixels if frames else None)


def reference_rollout(loaded: LoadedWorld, held_out: HeldOut, horizon: int, reference: Reference) -> Floats:
    """Mean losses (H,) of a predictor that needs no network on the same states, from the last observed one alone."""
    sums, windows = np.zeros(horizon), 0
    for states in held_out_batches(loaded, held_out):
        last = torch.cat([states[:, -horizon - 1 : -horizon]] * horizon, dim=1)  # (B, H, ...)
        sums += reference.loss(last, states[:, -horizon:]).sum(0).double().cpu().numpy()
        windows += len(states)
    return sums / max(windows, 1)


def device_of(loaded: LoadedWorld) -> torch.device:
    """Where a world's weights are, and its states must go."""
    return next(loaded.world.parameters()).device


def psnr(squared_pixel_error: float) -> float | None:
    """10 log10(255^2 / mean squared error) in dB; None where frames are equal, as it is infinite."""
    return float(10 * np.log10(255.0**2 / squared_pixel_error)) if squared_pixel_error > 0 else None


def decode(encoder: FrameEncoder, states: Tensor) -> NDArray[np.uint8]:
    """Frames (..., S, S, 3) that look like states (..., D)."""
    frames = encoder.decode(states.reshape(-1, states.shape[-1]).float().cpu().numpy())
    return frames.reshape(*states.shape[:-1], *frames.shape[1:])


def _squared_pixel_errors(encoder: FrameEncoder, predicted: Tensor, truth: Tensor) -> Floats:
    """(B, H) from states (B, H, D)."""
    wrong = decode(encoder, predicted).astype(np.float64) - decode(encoder, truth).astype(np.float64)
    return (wrong**2).mean((-3, -2, -1))


def _warm_up(loaded: LoadedWorld, held_out: HeldOut, think: ThinkSection) -> None:
    """Predict one window unseen by any clock: what a device does only once is no model's, so all are timed alike."""
    for states in held_out_batches(loaded, replace(held_out, most=1)):
        memory = loaded.world.observe(states[:, :-1])
        loaded.world.predict(memory, think, torch.Generator().manual_seed(0), positions=held_out.stride)
        _wait(states)


def _wait(like: Tensor) -> None:
    """Let an asynchronous device finish, so that a clock read next is true."""
    if like.device.type == "cuda":
        torch.cuda.synchronize(like.device)
    elif like.device.type == "mps":
        torch.mps.synchronize()
