"""The energy written the slow way, to check and to time the fast one against.

`dense_energy` runs [x_1..x_t, y_t] through a plain causal transformer, one position at a time, with its own norms,
rotations and softmax. `two_stream_energy` recomputes observed and candidate streams together under a dense mask, in one
graph: the straightforward form. Both read weights from an `EnergyTransformer` and share no code with it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * weight


def turn(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary embedding of x (..., T, H), pair (i, i + H/2) turned by position / 10000^(2i/H)."""
    size = x.shape[-1]
    angle = positions[:, None].double() * 10000.0 ** (-torch.arange(0, size, 2).double() / size)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., : size // 2], x[..., size // 2 :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def block(layer, x: Tensor, mask: Tensor, positions: Tensor, is_candidate: Tensor, landscape: int) -> Tensor:
    """One layer on x (B, S, W): mask (S, S) True where attention is allowed, is_candidate (S,)."""
    batch, length, width = x.shape
    heads = layer.heads
    pick = is_candidate[:, None].to(x.dtype)
    modulation = torch.zeros(6, width, dtype=x.dtype) if layer.modulation is None else layer.modulation[landscape]
    a_shift, a_scale, a_gate, f_shift, f_scale, f_gate = (pick * m for m in modulation)
    h = norm(x, layer.attn_norm.weight) * (1 + a_scale) + a_shift
    q, k, v = ((h @ w.T).view(batch, length, heads, -1).transpose(1, 2) for w in layer.qkv.weight.chunk(3))
    scores = turn(q, positions) @ turn(k, positions).transpose(-1, -2) / math.sqrt(width // heads)
    weight = torch.softmax(scores.masked_fill(~mask, float("-inf")), -1)
    attended = (weight @ v).transpose(1, 2).reshape(batch, length, width) @ layer.attn_out.weight.T
    x = x + attended * (1 + a_gate)
    h = norm(x, layer.ffn_norm.weight) * (1 + f_scale) + f_shift
    gate, up = ((h @ w.T) for w in layer.gate_up.weight.chunk(2))
    return x + ((gate * torch.sigmoid(gate) * up) @ layer.down.weight.T) * (1 + f_gate)


def run(network, x: Tensor, mask: Tensor, positions: Tensor, is_candidate: Tensor, landscape: int) -> Tensor:
    if network.landscape is not None:
        x = x + is_candidate[:, None].to(x.dtype) * network.landscape.weight[landscape]
    for layer in network.trunk.blocks:
        x = block(layer, x, mask, positions, is_candidate, landscape)
    return norm(x, network.trunk.norm.weight) @ network.head.weight[0]


def dense_energy(network, observed: Tensor, candidate: Tensor, landscape: int = 0) -> Tensor:
    """(B, T): each position on its own, [x_1..x_t, y_t] through a causal transformer."""
    energies = []
    for t in range(observed.shape[1]):
        x = torch.cat([observed[:, : t + 1], candidate[:, t : t + 1]], 1)
        length = t + 2
        is_candidate = torch.arange(length) == length - 1
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        energies.append(run(network, x, mask, torch.arange(length), is_candidate, landscape)[:, -1])
    return torch.stack(energies, 1)


def two_stream_energy(network, observed: Tensor, candidate: Tensor, landscape: int = 0) -> Tensor:
    """(B, T): both streams side by side, (B, 2T, W), recomputed whole, under one dense mask."""
    length = observed.shape[1]
    x = torch.cat([observed, candidate], 1)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    nothing, itself = torch.zeros(length, length, dtype=torch.bool), torch.eye(length, dtype=torch.bool)
    mask = torch.cat([torch.cat([causal, nothing], 1), torch.cat([causal, itself], 1)], 0)
    steps = torch.arange(length)
    is_candidate = torch.arange(2 * length) >= length
    return run(network, x, mask, torch.cat([steps, steps + 1]), is_candidate, landscape)[:, length:]
