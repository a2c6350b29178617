"""The diffusion transformer: the trunk, whose candidate stream holds a noisy next state and its noise level.

h = norm(trunk(y_t, level | x_1 .. x_t)), every block modulated by one small network of the level (adaLN-single, arXiv
2310.00426; adaLN, arXiv 2212.09748); the head that says the clean state belongs to the state space. Levels are log
signal-to-noise ratios. It knows no schedule.
"""

# B batch, T observed positions, T' candidate positions, W width

from __future__ import annotations

import torch
from torch import Tensor, nn

from ebwm_cli.model.attention import Scattered
from ebwm_cli.model.trunk import Memory, Trunk, initialise_matrices

WAVES = 16
"""Sines, and as many cosines, that a level is read by."""
HIDDEN = 32
"""Channels between a level and what it does to the blocks: few, as a small rival is counted by its parameters."""
LONGEST, SHORTEST = 40.0, 2.0
"""Wave lengths, in units of log signal-to-noise ratio: over twice the range of levels told apart (-8 to 8), and an
eighth of it."""


class DiffusionTransformer(nn.Module):
    """`observe` once, then `denoise` as often as sampling asks; states and noisy states enter embedded to `width`."""

    def __init__(self, width: int, layers: int, heads: int, ffn_multiplier: float = 1.0) -> None:
        super().__init__()
        self.trunk = Trunk(width, layers, heads, ffn_multiplier, num_landscapes=1)
        self.level_in = nn.Linear(2 * WAVES, HIDDEN)
        self.level_out = nn.Linear(HIDDEN, 6 * width, bias=False)
        self.width = width
        initialise_matrices(self)
        nn.init.zeros_(self.level_in.bias)
        nn.init.zeros_(self.level_out.weight)  # every level begins as the plain block

    def observe(self, observed: Tensor, memory: Memory | None = None) -> Memory:
        """Read observed states (B, T, W), embedded, after those in `memory`."""
        return self.trunk.observe(observed, memory)

    def denoise(
        self,
        noisy: Tensor,
        level: Tensor,
        memory: Memory,
        positions: Tensor | Scattered | None = None,
    ) -> Tensor:
        """Final hidden states (B, T', W) of noisy next states (B, T', W), embedded, whose noise `level` (B, T') is the
        log signal-to-noise ratio ln(signal^2 / noise^2); `positions` are those of `Trunk.propose`."""
        length = LONGEST * (SHORTEST / LONGEST) ** torch.linspace(0, 1, WAVES, device=level.device)
        angle = level.unsqueeze(-1) * (2 * torch.pi / length).to(level.dtype)  # (B, T', waves)
        features = torch.cat([angle.sin(), angle.cos()], dim=-1)
        condition = self.level_out(nn.functional.silu(self.level_in(features)))
        return self.trunk.propose(noisy, memory, 0, positions, condition.unflatten(-1, (6, self.width)))
