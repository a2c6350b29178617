"""A scalar that already knows its gradient.

Losses of detached descent steps don't share a graph, so each can be differentiated as soon as it exists and its
activations dropped: memory for N steps is that of one. The sum is handed on as an ordinary scalar, whose `.backward()`
passes the gradients on that were collected so far. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, grads: list[Tensor | None], *sources: Tensor) -> Tensor:
        ctx.grads = grads
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(None if grad is None else outer[0] * grad for grad in ctx.grads)


class RunningLoss:
    """Sum of scalar losses, each differentiated when it is added.

    Losses depend on `cut(source)` or, for parameters, on the source itself; `total().backward()` reaches the sources.
    """

    def __init__(self) -> None:
        self._sources: list[Tensor] = []
        self._leaves: list[Tensor] = []
        self._sums: list[Tensor] = []
        self._reached: list[bool] = []
        self._value: Tensor | None = None

    def watch(self, parameters: Iterable[Tensor]) -> None:
        """Collect gradients of these leaves."""
        for parameter in parameters:
            if parameter.requires_grad:
                self._collect(parameter, parameter)

    def cut(self, source: Tensor) -> Tensor:
        """`source` as a leaf that losses may use again and again, its own graph waiting for `total().backward()`."""
        if not (source.requires_grad and torch.is_grad_enabled()):
            return source.detach()
        leaf = source.detach().requires_grad_()
        self._collect(source, leaf)
        return leaf

    def add(self, loss: Tensor) -> None:
        """Add a scalar loss; differentiate it and free its graph, if it has one."""
        value = loss.detach()
        self._value = value if self._value is None else self._value + value
        if not loss.requires_grad:
            return
        grads: list[Tensor | None] = list(torch.autograd.grad(loss, self._leaves, allow_unused=True))
        for i, total in enumerate(self._sums):
            grad, grads[i] = grads[i], None  # freed as soon as it is added
            if grad is not None:
                total.add_(grad)
                self._reached[i] = True

    def total(self) -> Tensor:
        """The sum as one scalar."""
        if self._value is None:
            raise ValueError("no loss was added")
        grads = [total if reached else None for total, reached in zip(self._sums, self._reached, strict=True)]
        return _Known.apply(self._value, grads, *self._sources)  # type: ignore[return-value]

    def _collect(self, source: Tensor, leaf: Tensor) -> None:
        self._sources.append(source)
        self._leaves.append(leaf)
        # Made before any activation: what lives long must not land between what lives shortly, or the heap grows.
        self._sums.append(torch.zeros_like(leaf, memory_format=torch.contiguous_format))
        self._reached.append(False)
