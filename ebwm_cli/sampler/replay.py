"""A replay buffer: where descents arrived, kept with the windows they belong to, so that later ones go on from there.

A ring of the newest `size` windows; what comes back is drawn by a generator of its own, which is saved with it. Long
descents are learned so without making them at once (EBWM, arXiv 2406.08862). Knows no network and no loss.
"""

# R windows kept, B windows, T positions, D state size

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class ReplayBuffer:
    """Windows (T+1, ...) and their candidates (T, D), the newest `size` of each."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self._rng = torch.Generator().manual_seed(seed)
        self._windows: Tensor | None = None  # (R, T+1, ...)
        self._candidates: Tensor | None = None  # (R, T, D)
        self._pushed = 0

    def __len__(self) -> int:
        return min(self._pushed, self.size)

    def push(self, windows: Tensor, candidates: Tensor) -> None:
        """Keep windows (B, T+1, ...) and their candidates (B, T, D), forgetting the oldest."""
        windows, candidates = windows.detach()[-self.size :], candidates.detach()[-self.size :]
        if self._windows is None or self._candidates is None:
            self._windows = windows.new_zeros(self.size, *windows.shape[1:])
            self._candidates = candidates.new_zeros(self.size, *candidates.shape[1:])
        at = (self._pushed + torch.arange(len(windows), device=windows.device)) % self.size
        self._windows[at], self._candidates[at] = windows, candidates
        self._pushed += len(windows)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` different windows and their candidates, at most as many as there are."""
        if self._windows is None or self._candidates is None:
            raise ValueError("nothing was pushed yet")
        at = torch.randperm(len(self), generator=self._rng)[:count].to(self._windows.device)
        return self._windows[at], self._candidates[at]

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name; nothing where nothing was pushed."""
        if self._windows is None or self._candidates is None:
            return {}
        kept = {"windows": self._windows, "candidates": self._candidates}
        return {**kept, "pushed": torch.tensor(self._pushed), "generator": self._rng.get_state()}

    def load(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on from tensors that `tensors()` gave."""
        if tensors:
            self._windows, self._candidates = tensors["windows"].to(device), tensors["candidates"].to(device)
            self._pushed = int(tensors["pushed"])
            self._rng.set_state(tensors["generator"].cpu())
