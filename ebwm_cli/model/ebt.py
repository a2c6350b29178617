"""The energy-based transformer: E(x_1..x_t, y), one scalar per position (EBT, arXiv 2507.02092).

energy_t = w . norm(trunk(y_t | x_1 .. x_t)) [- A h_t . y_t / sqrt(W)], h_t = norm(trunk(x_1 .. x_t)).
It scores candidates and never moves them; what a state is, and how it was embedded, it does not know.
"""

# B batch, T observed positions, T' candidate positions, W width

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from ebwm_cli.model.attention import Scattered
from ebwm_cli.model.level import Level
from ebwm_cli.model.trunk import Memory, Trunk, initialise_matrices


class EnergyTransformer(nn.Module):
    """Trunk and scalar head. `observe` once, then `energy` as often as descent asks.

    `step_conditioning`: `none`; `embedding`, a learned vector per landscape added to the candidate; `adaln`, a shift,
    scale and gate per landscape in every block. Either touches the candidate stream alone, so a Memory serves all
    landscapes. `compatibility` adds the term in brackets: the context's own say, whose gradient is an output
    layer; `turned` gives it the matrix A, for candidates that are embedded by the table observed states are. `squares`
    reads the energy as |A h|^2 / 2 of the hidden state, which is never below 0. Where there are `clues`, so many of the
    state space, so many averages among them, and so many numbers of a candidate's point, what energies after a context
    are measured in, `level`, is kept with the weights; no descent uses it.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        ffn_multiplier: float = 1.0,
        step_conditioning: str = "none",
        num_landscapes: int = 1,
        compatibility: bool = False,
        turned: bool = True,
        squares: bool = False,
        clues: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        adaln = num_landscapes if step_conditioning == "adaln" else 0
        self.trunk = Trunk(width, layers, heads, ffn_multiplier, adaln)
        self.landscape = nn.Embedding(num_landscapes, width) if step_conditioning == "embedding" else None
        self.width = width
        self.squares = squares
        self.head = nn.Linear(width, width if squares else 1, bias=False)
        self.num_landscapes = num_landscapes
        self.compatibility = compatibility
        self.turn = nn.Linear(width, width, bias=False) if compatibility and turned else None
        initialise(self)
        self.level = Level(width, *clues) if clues is not None else None

    def observe(self, observed: Tensor, memory: Memory | None = None) -> Memory:
        """Read observed states (B, T, W), embedded, after those in `memory`. What it says of each, `hidden`, is turned
        to where candidates are, once."""
        longer = self.trunk.observe(observed, memory)
        if self.turn is None:
            return longer
        said = longer.hidden[:, -observed.shape[1] :]
        with torch.autocast(said.device.type, enabled=False):  # what is read out of it stays fp32
            said = self.turn(said.to(self.turn.weight.dtype))
        return replace(longer, hidden=torch.cat([memory.hidden, said], dim=1) if memory else said)

    def energy(
        self,
        candidate: Tensor,
        memory: Memory,
        landscape: int = 0,
        positions: Tensor | Scattered | None = None,
    ) -> Tensor:
        """Energies (B, T') of embedded candidates (B, T', W) as next states after the last T' states of `memory`.

        `landscape` is the descent step, the last landscape serving all later ones. `positions` (T',) names instead the
        remembered state each candidate follows; it may repeat, so many samples share one Memory. Scattered candidates
        are (1, n, W).
        """
        hidden = self.hidden(candidate, memory, landscape, positions)
        with torch.autocast(hidden.device.type, enabled=False):  # energies stay fp32
            energy = self._read(hidden.to(self.head.weight.dtype))
            if self.compatibility:
                context = said_before(memory, candidate.shape[1], positions)
                energy = energy - torch.linalg.vecdot(context.to(energy), candidate.to(energy)) / math.sqrt(self.width)
        return energy

    def _read(self, hidden: Tensor) -> Tensor:
        """(B, T', W) -> (B, T')."""
        read = self.head(hidden)
        return torch.linalg.vecdot(read, read) / 2 if self.squares else read.squeeze(-1)

    def hidden(
        self,
        candidate: Tensor,
        memory: Memory,
        landscape: int = 0,
        positions: Tensor | Scattered | None = None,
    ) -> Tensor:
        """Final hidden states (B, T', W) of candidates, from which their energies are read."""
        landscape = min(landscape, self.num_landscapes - 1)
        stream = candidate if self.landscape is None else candidate + self.landscape.weight[landscape]
        return self.trunk.propose(stream, memory, landscape, positions)


def said_before(memory: Memory, count: int, positions: Tensor | Scattered | None) -> Tensor:
    """Hidden states (B, T', W) of the observed states that candidates follow, as `EnergyTransformer.energy` has it."""
    if isinstance(positions, Scattered):
        return memory.hidden[positions.item, positions.positions][None]
    return memory.hidden[:, -count:] if positions is None else memory.hidden[:, positions]


def initialise(network: EnergyTransformer) -> None:
    """All initial values, in one place.

    | parameter | value |
    |---|---|
    | matrices | Xavier normal: std = sqrt(2 / (fan_in + fan_out)) |
    | norm weights | 1 |
    | landscape embeddings | normal, std 0.02 |
    | adaLN modulations | 0: every landscape starts as the plain block |
    | energy head beside a compatibility term | 0: the context speaks first, and the trunk improves on it |
    | level | 0: energies are what they are before it is fitted |
    | the matrix A of that term | orthogonal: else a token's own embedding says that it comes again |
    """
    initialise_matrices(network)
    if network.landscape is not None:
        nn.init.normal_(network.landscape.weight, std=0.02)
    if network.compatibility:
        nn.init.zeros_(network.head.weight)
    if network.turn is not None:
        nn.init.orthogonal_(network.turn.weight)
