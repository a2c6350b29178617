"""Two functions that descent differentiates twice, with both derivatives written out.

normalise(x) = x / sqrt(mean(x^2) + eps); swiglu([a, b]) = silu(a) * b. Autograd would derive the same from dozens of
small products; here each derivative is a few passes over memory. A third derivative is refused, none is needed.
Knows no layers.
"""

# D size of the last axis; u, v incoming derivatives

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Normalise(torch.autograd.Function):
    """n = s x with s = (mean(x^2) + eps)^(-1/2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        scale = _mean_product(x, x).add_(eps).rsqrt_()  # (..., 1)
        ctx.save_for_backward(x, scale)
        return x * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, scale = ctx.saved_tensors
        return _NormaliseGrad.apply(grads[0], x, scale), None  # type: ignore[return-value]


class _NormaliseGrad(torch.autograd.Function):
    """J^T u = s (u - n <u, n> / D); J is symmetric."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, x: Tensor, scale: Tensor) -> Tensor:
        n = x * scale
        ctx.save_for_backward(u, n, scale)
        return (u - n * _mean_product(u, n)).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (v,) = grads
        u, n, scale = ctx.saved_tensors
        un, vn, uv = _mean_product(u, n), _mean_product(v, n), _mean_product(u, v)
        for_u = torch.addcmul(v, n, vn, value=-1).mul_(scale)
        # d/dx <v, J u> = s^2 / D * (n (3 <u,n><v,n> / D - <u,v>) - v <u,n> - u <v,n>)
        for_x = n * (3 * un * vn - uv)
        for_x.addcmul_(v, un, value=-1).addcmul_(u, vn, value=-1).mul_(scale.square())
        return for_u, for_x, None


def _mean_product(a: Tensor, b: Tensor) -> Tensor:
    """Of the last axis, (..., 1), in at least fp32: autocast would round the sum to bf16."""
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    with torch.autocast(a.device.type, enabled=False):
        return torch.linalg.vecdot(a.to(dtype), b.to(dtype)).div_(a.shape[-1]).unsqueeze(-1)


class _SwiGLU(torch.autograd.Function):
    """h = silu(a) b, with a and b the halves of one tensor."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        a, b = both.chunk(2, dim=-1)
        sigmoid = a.sigmoid()
        ctx.save_for_backward(both, sigmoid)
        return (a * sigmoid).mul_(b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        both, sigmoid = ctx.saved_tensors
        return _SwiGLUGrad.apply(grads[0], both, sigmoid)  # type: ignore[return-value]


class _SwiGLUGrad(torch.autograd.Function):
    """[u b f'(a), u f(a)] with f = silu."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, both: Tensor, sigmoid: Tensor) -> Tensor:
        ctx.save_for_backward(u, both, sigmoid)
        a, b = both.chunk(2, dim=-1)
        out = torch.empty_like(both)
        for_a, for_b = out.chunk(2, dim=-1)
        value, slope = _silu(a, sigmoid)
        torch.mul(u, value, out=for_b)
        torch.mul(u, b, out=for_a).mul_(slope)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        u, both, sigmoid = ctx.saved_tensors
        a, b = both.chunk(2, dim=-1)
        va, vb = grads[0].chunk(2, dim=-1)
        value, slope = _silu(a, sigmoid)
        # f''(a) = sigma (1 - sigma) (2 + a (1 - 2 sigma))
        curve = torch.sub(1, sigmoid, alpha=2).mul_(a).add_(2).mul_(sigmoid).mul_(1 - sigmoid)
        vab = va * b
        for_u = (vab * slope).addcmul_(vb, value)
        out = torch.empty_like(both)
        for_a, for_b = out.chunk(2, dim=-1)
        torch.mul(vab, curve, out=for_a).addcmul_(vb, slope).mul_(u)
        torch.mul(va, slope, out=for_b).mul_(u)
        return for_u, out, None


def _silu(a: Tensor, sigmoid: Tensor) -> tuple[Tensor, Tensor]:
    """silu(a) = a sigma and its slope sigma + a sigma (1 - sigma)."""
    value = a * sigmoid
    return value, torch.addcmul(sigmoid, value, 1 - sigmoid)


def normalise(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last axis."""
    return _Normalise.apply(x, eps)  # type: ignore[return-value]


def swiglu(both: Tensor) -> Tensor:
    """silu(a) * b of both = [a, b], (..., 2F) -> (..., F)."""
    return _SwiGLU.apply(both)  # type: ignore[return-value]
