"""The autoregressive transformer (Transformer++): the trunk of the energy model, observed stream alone.

h_t = norm(trunk(x_1 .. x_t)); the head on h_t, which says the next state in one pass, belongs to the state space. Knows
no candidate and no loss.
"""

# B batch, T observed positions, W width

from __future__ import annotations

from torch import Tensor, nn

from ebwm_cli.model.trunk import Memory, Trunk, initialise_matrices


class Transformer(nn.Module):
    """`observe` reads states already embedded to `width`; the Memory's hidden states are what a head reads."""

    def __init__(self, width: int, layers: int, heads: int, ffn_multiplier: float = 1.0) -> None:
        super().__init__()
        self.trunk = Trunk(width, layers, heads, ffn_multiplier)
        initialise_matrices(self)

    def observe(self, observed: Tensor, memory: Memory | None = None) -> Memory:
        """Read observed states (B, T, W), embedded, after those in `memory`."""
        return self.trunk.observe(observed, memory)
