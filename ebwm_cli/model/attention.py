"""Attention: rotary positions, causal attention for observed states, candidate attention for proposals.

Candidate t: softmax over [q_t . k_1 .. q_t . k_t, q_t . k_self] / sqrt(H), applied to [v_1 .. v_t, v_self]; its rotary
position is t+1. Knows no weights and no layers; everything here is differentiable twice but `causal_attention`, which
candidates never enter.
"""

# B batch, T observed positions, T' candidate positions, N heads, H head size, n scattered candidates

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

ROTARY_BASE = 10_000.0
QUERY_BLOCK = 256  # candidate queries that share one dense score matrix


class Rotary(NamedTuple):
    """Cosines and sines of the rotary angles, (T, H/2) each."""

    cos: Tensor
    sin: Tensor

    def at(self, positions: slice | Tensor) -> Rotary:
        """The rows of these positions."""
        return Rotary(self.cos[positions], self.sin[positions])


@lru_cache(maxsize=32)
def _rotary_table(length: int, head_size: int, device: torch.device, dtype: torch.dtype) -> Rotary:
    with torch.inference_mode(False):  # a table made while thinking must serve training later
        frequency = ROTARY_BASE ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
        angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency  # (T, H/2)
        return Rotary(angle.cos().to(device, dtype), angle.sin().to(device, dtype))


def rotary(length: int, head_size: int, like: Tensor) -> Rotary:
    """Rotary angles of positions 0 .. length-1 (RoPE, arXiv 2104.09864), on the device of `like`, at least fp32."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return _rotary_table(1 << max(length - 1, 63).bit_length(), head_size, like.device, dtype).at(slice(0, length))


class _Rotate(torch.autograd.Function):
    """R x for a rotation R; its gradient is R^T g, again a rotation, so it differentiates any number of times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        first, second = x.chunk(2, dim=-1)  # (B, N, T, H/2)
        turned = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        half = x.shape[-1] // 2
        torch.mul(first, cos, out=turned[..., :half]).addcmul_(second, sin, value=-1)
        torch.mul(second, cos, out=turned[..., half:]).addcmul_(first, sin)
        return turned

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _Rotate.apply(grads[0], cos, -sin), None, None  # type: ignore[return-value]


def rotate(x: Tensor, table: Rotary) -> Tensor:
    """Turn x (B, N, T, H) by the angles of `table` (T, H/2)."""
    return _Rotate.apply(x, table.cos.to(x.dtype), table.sin.to(x.dtype))  # type: ignore[return-value]


def causal_attention(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Observed states attend to themselves and all before: (B, N, Tq, H) over (B, N, T, H), the queries being the last
    Tq of the T positions."""
    new, length = query.shape[-2], keys.shape[-2]
    if new == length:
        return F.scaled_dot_product_attention(query, keys, values, is_causal=True)
    visible = None  # of one query all are
    if new > 1:
        visible = torch.ones(new, length, dtype=torch.bool, device=query.device).tril(length - new)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=visible)


class Scattered(NamedTuple):
    """Candidates here and there in a batch of I items, n in all, laid out by item for attention: P is the most that one
    has."""

    item: Tensor  # (n,) which item each candidate belongs to, ascending
    place: Tensor  # (n,) which of its item's candidates it is
    positions: Tensor  # (n,) the last observed position it may see
    seen: Tensor  # (I, P) the same, by item; 0 where there is none

    def by_item(self, x: Tensor) -> Tensor:
        """(1, N, n, H) -> (I, N, P, H), zeros where there is no candidate."""
        laid = x.new_zeros(*self.seen.shape, x.shape[1], x.shape[3])
        laid[self.item, self.place] = x[0].transpose(0, 1)
        return laid.transpose(1, 2)

    def in_a_row(self, x: Tensor) -> Tensor:
        """(I, N, P, H) -> (1, N, n, H)."""
        return x.transpose(1, 2)[self.item, self.place].transpose(0, 1)[None]


def scattered(rows: Tensor, positions: Tensor) -> tuple[Tensor, Scattered]:
    """Which batch items (I,) have any of the candidates in the items `rows` (n,), in ascending order, after the
    observed `positions` (n,); and their layout in a batch of those items alone."""
    items, item, counts = torch.unique_consecutive(rows, return_inverse=True, return_counts=True)
    place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[item]
    seen = positions.new_zeros(len(items), int(counts.max()))
    seen[item, place] = positions
    return items, Scattered(item, place, positions, seen)


def candidate_attention(
    query: Tensor,
    own_key: Tensor,
    own_value: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor | Scattered | None,
) -> Tensor:
    """Each candidate attends to the observed states its context holds, and to itself, in one softmax.

    query, own_key, own_value: (B, N, T', H); keys, values: (B, N, T, H). `positions` (T',) is the last observed
    position each candidate may see; None means 0 .. T-1 in order (T' = T). Returns (B, N, T', H). Scattered candidates
    are (1, N, n, H), and B is I.
    """
    if isinstance(positions, Scattered):
        query, own_key, own_value = (positions.by_item(each) for each in (query, own_key, own_value))
        return positions.in_a_row(_attend(query, own_key, own_value, keys, values, positions.seen))
    length = keys.shape[-2]
    if positions is None and query.shape[-2] > QUERY_BLOCK:  # block-causal: skip scores that the mask would throw away
        blocks = [
            _attend(
                query[:, :, at : at + QUERY_BLOCK],
                own_key[:, :, at : at + QUERY_BLOCK],
                own_value[:, :, at : at + QUERY_BLOCK],
                keys[:, :, : at + QUERY_BLOCK],
                values[:, :, : at + QUERY_BLOCK],
                torch.arange(at, min(at + QUERY_BLOCK, length), device=query.device),
            )
            for at in range(0, length, QUERY_BLOCK)
        ]
        return torch.cat(blocks, dim=-2)
    if positions is None:
        positions = torch.arange(length, device=query.device)
    return _attend(query, own_key, own_value, keys, values, positions)


def _attend(
    query: Tensor, own_key: Tensor, own_value: Tensor, keys: Tensor, values: Tensor, positions: Tensor
) -> Tensor:
    length, scale = keys.shape[-2], query.shape[-1] ** -0.5
    query = query * scale
    scores = query @ keys.mT  # (B, N, T', T)
    if positions.numel() > 1 or positions.device.type != "cpu" or int(positions) < length - 1:
        hidden = torch.arange(length, device=keys.device) > positions[..., None]  # (T', T), or (B, T', T)
        hidden = hidden if hidden.ndim == 2 else hidden[:, None]
        scores = scores.masked_fill(hidden, float("-inf"))
    own_score = (query * own_key).sum(-1, keepdim=True)  # (B, N, T', 1)
    weight = torch.cat([scores, own_score], dim=-1).softmax(-1)  # one softmax over observed and self
    return weight[..., :length] @ values + weight[..., length:] * own_value
