"""The trunk: one stack of blocks, two passes. `observe` reads true states once and keeps their keys and values;
`propose` runs candidates against them, as often as descent asks.

x <- x + attention(norm(x)); x <- x + down(silu(gate(norm(x))) * up(norm(x))). Knows no energy, no state space, no loss.
"""

# B batch, T observed positions, T' candidate positions, W width, N heads, H head size, F hidden width of the FFN

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ebwm_cli.model.attention import (
    Rotary,
    Scattered,
    candidate_attention,
    causal_attention,
    rotary,
    rotate,
)
from ebwm_cli.model.product import product
from ebwm_cli.model.twice import normalise, swiglu

NORM_EPS = 1e-5


@dataclass(frozen=True)
class Memory:
    """What the trunk keeps of the observed states: keys and values per layer, (B, N, T, H), and the final hidden
    states (B, T, W). `position` is the absolute position of the next state, which exceeds T once old states are
    forgotten."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    hidden: Tensor
    position: int

    @property
    def length(self) -> int:
        """States remembered, T."""
        return self.hidden.shape[1]

    def last(self, count: int) -> Memory:
        """This memory with all but the newest `count` states forgotten."""
        if count >= self.length:
            return self
        return Memory(
            tuple(k[:, :, -count:] for k in self.keys),
            tuple(v[:, :, -count:] for v in self.values),
            self.hidden[:, -count:],
            self.position,
        )

    def rows(self, items: Tensor) -> Memory:
        """The memory of these batch items (n,), which may repeat."""
        keys, values = tuple(k[items] for k in self.keys), tuple(v[items] for v in self.values)
        return Memory(keys, values, self.hidden[items], self.position)

    def until(self, count: int) -> Memory:
        """This memory as it was when it held its oldest `count` states only."""
        return Memory(
            tuple(k[:, :, :count] for k in self.keys),
            tuple(v[:, :, :count] for v in self.values),
            self.hidden[:, :count],
            self.position - self.length + count,
        )


class Modulation(NamedTuple):
    """adaLN: what a landscape or a noise level does to one block's candidate stream, (W,) or (B, T', W) each (DiT,
    arXiv 2212.09748)."""

    attn_shift: Tensor
    attn_scale: Tensor
    attn_gate: Tensor
    ffn_shift: Tensor
    ffn_scale: Tensor
    ffn_gate: Tensor


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis (arXiv 1910.07467); computed in at least fp32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return normalise(x, NORM_EPS) * self.weight


class Block(nn.Module):
    """One layer with its two passes."""

    def __init__(self, width: int, heads: int, hidden: int, num_landscapes: int) -> None:
        super().__init__()
        self.heads = heads
        self.attn_norm = RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.ffn_norm = RMSNorm(width)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.modulation = nn.Parameter(torch.zeros(num_landscapes, 6, width)) if num_landscapes else None

    def observe(self, x: Tensor, past: tuple[Tensor, Tensor] | None, table: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Run observed x (B, T, W) at the angles of `table`, after the keys and values of `past`; returns the next
        x and all keys and values."""
        query, key, value = self._query_key_value(self.attn_norm(x), table)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=-2), torch.cat([past[1], value], dim=-2)
        x = x + product(_join(causal_attention(query, key, value)), self.attn_out.weight)
        return x + self._ffn(self.ffn_norm(x)), key, value

    def propose(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        table: Rotary,
        positions: Tensor | Scattered | None,
        landscape: int,
        condition: Tensor | None = None,
    ) -> Tensor:
        """Run candidates x (B, T', W) against observed keys and values (B, N, T, H). `condition` (B, T', 6, W) is added
        to the landscape's modulation."""
        if self.modulation is None:
            query, key, value = self._query_key_value(self.attn_norm(x), table)
            attended = _join(candidate_attention(query, key, value, keys, values, positions))
            x = x + product(attended, self.attn_out.weight)
            return x + self._ffn(self.ffn_norm(x))
        whole = self.modulation[landscape]
        m = Modulation(*(whole if condition is None else whole + condition).unbind(-2))
        h = self.attn_norm(x) * (1 + m.attn_scale) + m.attn_shift
        query, key, value = self._query_key_value(h, table)
        attended = _join(candidate_attention(query, key, value, keys, values, positions))
        x = x + product(attended, self.attn_out.weight) * (1 + m.attn_gate)
        return x + self._ffn(self.ffn_norm(x) * (1 + m.ffn_scale) + m.ffn_shift) * (1 + m.ffn_gate)

    def _query_key_value(self, h: Tensor, table: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, width = h.shape
        qkv = product(h, self.qkv.weight).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, N, T, H) each
        return rotate(query, table), rotate(key, table), value

    def _ffn(self, h: Tensor) -> Tensor:
        both = product(h, self.gate_up.weight)  # (B, T, 2F)
        return product(swiglu(both), self.down.weight)  # (B, T, F) -> (B, T, W)


def _join(x: Tensor) -> Tensor:
    """(B, N, T, H) -> (B, T, W)."""
    return x.transpose(1, 2).flatten(2)


class Trunk(nn.Module):
    """A stack of blocks over states already embedded to width W.

    `num_landscapes` > 0 gives every block an adaLN modulation per landscape, on the candidate stream alone.
    """

    def __init__(self, width: int, layers: int, heads: int, ffn_multiplier: float = 1.0, num_landscapes: int = 0):
        super().__init__()
        hidden = round(width * ffn_multiplier)
        self.head_size = width // heads
        self.blocks: list[Block] = nn.ModuleList(  # type: ignore[assignment]
            Block(width, heads, hidden, num_landscapes) for _ in range(layers)
        )
        self.norm = RMSNorm(width)

    def observe(self, x: Tensor, memory: Memory | None = None) -> Memory:
        """Run observed x (B, T, W) behind `memory`; returns the longer Memory."""
        start = memory.position if memory else 0
        table = rotary(start + x.shape[1], self.head_size, x).at(slice(start, None))
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            past = (memory.keys[layer], memory.values[layer]) if memory else None
            x, key, value = block.observe(x, past, table)
            keys.append(key)
            values.append(value)
        hidden = self.norm(x)
        if memory:
            hidden = torch.cat([memory.hidden, hidden], dim=1)
        return Memory(tuple(keys), tuple(values), hidden, start + x.shape[1])

    def propose(
        self,
        x: Tensor,
        memory: Memory,
        landscape: int = 0,
        positions: Tensor | Scattered | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states (B, T', W) of candidates x for the last T' states of `memory`, or after the states
        `positions` (T',), counted from the oldest remembered one. Scattered candidates are (1, n, W). `condition`
        (B, T', 6, W) modulates every block."""
        length, count = memory.length, x.shape[1]
        if positions is None and count != length:
            positions = torch.arange(length - count, length, device=x.device)
        first = memory.position - length + 1  # where the candidate after the oldest state is: candidate t at t+1
        seen = positions.positions if isinstance(positions, Scattered) else positions
        table = rotary(memory.position + 1, self.head_size, x).at(slice(first, None) if seen is None else seen + first)
        for block, keys, values in zip(self.blocks, memory.keys, memory.values, strict=True):
            x = block.propose(x, keys, values, table, positions, landscape, condition)
        return self.norm(x)


def initialise_matrices(network: nn.Module) -> None:
    """Matrices Xavier normal, std = sqrt(2 / (fan_in + fan_out)); norm weights stay 1 and modulations 0."""
    for child in network.modules():
        if isinstance(child, nn.Linear):
            nn.init.xavier_normal_(child.weight)
