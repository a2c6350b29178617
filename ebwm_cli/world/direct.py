"""The direct world: says the next state in one pass, as autoregressive transformers and recurrent networks do.

loss = mean of distance(head(h_t), x_{t+1}). There is nothing to move and nothing to judge: any number of thinking steps
gives the same answer. Knows no optimizer, file or terminal.
"""

# B batch, T positions, P predicted positions, D state size, M samples

from __future__ import annotations

import torch
from torch import Tensor

from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.world.observing import Memory, ObservingWorld
from ebwm_cli.world.protocol import Prediction


class DirectWorld(ObservingWorld):
    """A `WorldModel` whose predictions are `space.forecast` of what `network` says of the context."""

    measures: tuple[str, ...] = ()
    score: str | None = None

    def loss(
        self, states: Tensor, rng: torch.Generator, shared: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss of windows (B, T+1, ...), a scalar for `.backward()`; it measures nothing else."""
        context, target = states[:, :-1], states[:, 1:]
        hidden = self.observe(self.blurred(context, rng)).kept.hidden
        return self._read_out(context, hidden, target), {}

    @torch.no_grad()
    def predict(
        self,
        memory: Memory,
        think: ThinkSection,
        rng: torch.Generator,
        *,
        positions: int | None = None,
        record: bool = False,
    ) -> Prediction:
        """One pass for each of the last `positions` states; `think` changes nothing, and all samples are the same."""
        count = positions or memory.length
        state = self.space.forecast(memory.states[:, -count:], memory.kept.hidden[:, -count:])  # (B, P, D)
        nothing = state.new_zeros(*state.shape[:2], 1)
        return Prediction(
            state=state,
            start=state,
            energies=nothing,
            moves=nothing[..., :0],
            steps_used=nothing[..., 0].long(),
            sample_states=state.unsqueeze(2).expand(-1, -1, think.samples, -1),
            sample_energies=nothing.expand(-1, -1, think.samples),
            sample_gaps=nothing.expand(-1, -1, think.samples),
            looks=nothing[..., 0].long(),
            tries=nothing[..., 0].long(),
            path=state.unsqueeze(2) if record else None,
        )

    @torch.no_grad()
    def hidden(self, candidate: Tensor, memory: Memory) -> Tensor:
        """Final hidden states (B, P, W) of the last P positions; no candidate ever enters."""
        return memory.kept.hidden[:, -candidate.shape[1] :]
