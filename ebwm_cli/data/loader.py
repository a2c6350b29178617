"""Batches of windows, in an order that is a pure function of (seed, epoch, step).

Epoch e visits the windows in the permutation that sorts the e-th Philox stream of the seed; step s takes ids
[s * B, (s + 1) * B) of its epoch. There is no cursor to save: a resumed run asks for the same step and gets the same
bytes. It must not know models, files or devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ebwm_cli.data.mixing import mix_windows
from ebwm_cli.data.store import Split
from ebwm_cli.errors import DataError


@dataclass(frozen=True)
class Batch:
    """Windows of consecutive states. B batch, C context, D state size."""

    states: Tensor  # (B, C+1, D) float32, or (B, C+1) int64 tokens
    ids: Tensor  # (B,) int64, index into the split's windows

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        return Batch(self.states.to(device, non_blocking=True), self.ids.to(device, non_blocking=True))


def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """Order of `count` windows in one epoch, (count,) int64; the same on every machine and numpy version."""
    keys = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(count)
    return np.argsort(keys, kind="stable").astype(np.int64)


class Loader:
    """Shuffled batches for training.

    The ragged tail of an epoch is dropped, unless the split is smaller than a batch: then epochs follow one another
    without a seam, so that every window is still seen equally often.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        context: int | None = None,
        *,
        mix: bool = False,
        share: float = 1.0,
    ) -> None:
        """`context` states of context per window, at most the set's (None: the set's); `mix` windows in pairs; learn
        from a `share` of the split. Raises DataError where that holds no such window."""
        self.context = split.context if context is None else context
        self.starts = _some_windows(split, self.context, share=share)  # (W,) first row of each window
        self.states = split.states
        self.states_seen = sum(last - first for first, last in split.stretches(self.context, share))
        """States that windows are taken from."""
        self.batch_size = batch_size
        self.seed = seed
        self.mix = mix
        self._epoch = -1
        self._permutation = np.empty(0, np.int64)

    @property
    def windows(self) -> int:
        """Windows in the split."""
        return len(self.starts)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the split; 1 where the split is smaller than a batch."""
        return max(1, self.windows // self.batch_size)

    def order(self, step: int) -> np.ndarray:
        """Window ids (B,) int64 of global step `step`, counted from 0."""
        size = self.batch_size
        if self.windows >= size:
            epoch, place = divmod(step, self.steps_per_epoch)
            return self._permuted(epoch)[place * size : (place + 1) * size]
        first = step * size
        epochs = range(first // self.windows, (first + size - 1) // self.windows + 1)
        ids = np.concatenate([permutation(self.windows, self.seed, epoch) for epoch in epochs])
        offset = first - epochs.start * self.windows
        return ids[offset : offset + size]

    def batch(self, step: int) -> Batch:
        """The batch of global step `step`, counted from 0."""
        ids = self.order(step)
        states = _gather(self.states, self.starts, ids, self.context)
        return _batch(mix_windows(states, self.seed, step) if self.mix else states, ids)

    def plain(self, most: int, batch_size: int) -> Iterator[Tensor]:
        """At most `most` windows (B, C+1, ...), evenly spread, unmixed, in the order of time, so many at once."""
        ids = spread(np.arange(self.windows), most)
        for first in range(0, len(ids), batch_size):
            some = ids[first : first + batch_size]
            yield _batch(_gather(self.states, self.starts, some, self.context), some).states

    @staticmethod
    def sequential(
        split: Split,
        batch_size: int,
        context: int | None = None,
        stride: int | None = None,
        most: int | None = None,
    ) -> Iterator[Batch]:
        """Windows once, in the order of time, for evaluation; the ragged last batch is kept. They begin `stride` states
        apart (None: as the split has them); of more than `most`, as many evenly spread ones."""
        context = split.context if context is None else context
        starts = spread(_some_windows(split, context, stride), most)
        for first in range(0, len(starts), batch_size):
            ids = np.arange(first, min(first + batch_size, len(starts)))
            yield _batch(_gather(split.states, starts, ids, context), ids)

    def _permuted(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            self._permutation = permutation(self.windows, self.seed, epoch)
            self._epoch = epoch
        return self._permutation


def _some_windows(split: Split, context: int, stride: int | None = None, share: float = 1.0) -> np.ndarray:
    starts = split.windows(context, stride, share)
    if not len(starts) and share < 1 and len(split.windows(context, stride)):
        raise DataError(
            f"{share:g} of the {split.name} split holds no window of {context} + 1 states", "a larger data.fraction"
        )
    if not len(starts):
        raise DataError(
            f"the {split.name} split holds no window of {context} + 1 states",
            f"data.context={max(1, context // 2)}, or ebwm prepare video with a smaller --interval",
        )
    return starts


def _gather(states: np.ndarray, starts: np.ndarray, ids: np.ndarray, context: int) -> np.ndarray:
    return states[starts[ids][:, None] + np.arange(context + 1)]  # (B, C+1, D), a copy


def spread(starts: np.ndarray, most: int | None) -> np.ndarray:
    """`most` of the windows (W,), evenly spread; all where there are no more or None."""
    if most is None or len(starts) <= most:
        return starts
    return starts[np.linspace(0, len(starts) - 1, most).astype(np.int64)]


def as_states(states: np.ndarray) -> Tensor:
    """Stored states as a network takes them: tokens int64, latents as they are; a copy where the array is read-only."""
    if np.issubdtype(states.dtype, np.integer):
        return torch.from_numpy(states.astype(np.int64))
    return torch.from_numpy(states if states.flags.writeable else states.copy())


def _batch(states: np.ndarray, ids: np.ndarray) -> Batch:
    return Batch(as_states(states), torch.from_numpy(ids.copy()))
