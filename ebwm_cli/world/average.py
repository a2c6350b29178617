"""Averaged weights: a <- decay * a + (1 - decay) * w after every update. Knows parameters only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """An exponential average of a module's parameters, beginning at their present values."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._parameters = dict(module.named_parameters())
        self._average = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._decay = decay

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the parameters."""
        for name, average in self._average.items():
            average.lerp_(self._parameters[name], 1 - self._decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the module's parameters are the averaged ones."""
        own = {name: p.data for name, p in self._parameters.items()}
        for name, parameter in self._parameters.items():
            parameter.data = self._average[name]
        try:
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.data = own[name]

    def tensors(self) -> dict[str, Tensor]:
        """The average by parameter name."""
        return self._average

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from tensors that `tensors()` gave."""
        for name, average in self._average.items():
            average.copy_(tensors[name])
