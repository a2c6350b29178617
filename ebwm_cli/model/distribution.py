"""Functions of logits: expected embedding, cross-entropy, relative entropy.

softmax(z) E, -ln softmax(z)[w], KL(softmax(z), softmax(z0)). Autograd would keep the probabilities beside the logits;
the first two make them again where a gradient needs them, so that a descent step on tokens keeps one (B, T, V) tensor,
its candidate; a second derivative of these is refused, none is needed. The last is autograd's own. Knows no network.
"""

# B batch, T positions, V vocabulary, W width

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ebwm_cli.model.product import product


class _ExpectedEmbedding(torch.autograd.Function):
    """e = p E with p = softmax(z); dE = p^T u, dz = p (u E^T - <p, u E^T>)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(logits, table)
        return product(logits.softmax(-1), table.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        logits, table = ctx.saved_tensors
        p, (u,) = logits.softmax(-1), grads
        for_table = p.flatten(0, -2).t() @ u.flatten(0, -2) if ctx.needs_input_grad[1] else None
        for_logits = None
        if ctx.needs_input_grad[0]:
            by_p = u @ table.t()
            for_logits = by_p.sub_(_dot(p, by_p).unsqueeze(-1)).mul_(p)
        return for_logits, for_table


class _CrossEntropy(torch.autograd.Function):
    """L = ln sum exp(z) - z[w]; dz = softmax(z) - onehot(w)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(logits, target)
        log_p = logits.log_softmax(-1)
        return -log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, target = ctx.saved_tensors
        u = grads[0].unsqueeze(-1)
        for_logits = logits.softmax(-1).mul_(u)
        return for_logits.scatter_add_(-1, target.unsqueeze(-1), -u), None


def expected_embedding(logits: Tensor, table: Tensor) -> Tensor:
    """softmax(logits) @ table: (..., V), (V, W) -> (..., W)."""
    return _ExpectedEmbedding.apply(logits, table)  # type: ignore[return-value]


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-ln softmax(logits)[target] in nats: (..., V), (...) int64 -> (...)."""
    return _CrossEntropy.apply(logits, target)  # type: ignore[return-value]


def relative_entropy(logits: Tensor, other: Tensor) -> Tensor:
    """KL(softmax(logits), softmax(other)) = <p, ln p> - <p, z0> + ln sum exp(z0) in nats, (..., V) each -> (...)."""
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    return _dot(p, log_p) - _dot(p, other) + other[..., 0] - other.log_softmax(-1)[..., 0]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> over the last axis, without the tensor of products."""
    return (a.unsqueeze(-2) @ b.unsqueeze(-1)).squeeze((-2, -1))
