"""The diffusion world: learns to say the clean next state from a noisy one, and predicts by denoising noise.

loss = distance(estimate(s y + n eps, level), x_{t+1}), y the true state's point, level drawn for every position
(arXiv 2006.11239 with the clean state as target; cosine schedule, arXiv 2102.09672; sampled by DDIM, arXiv 2010.02502).
Tokens are denoised as embeddings and read out as logits. Knows no optimizer, file or terminal.
"""

# B batch, T positions, P predicted positions, D state size, E point size, M samples

from __future__ import annotations

import torch
from torch import Tensor

from ebwm_cli.model.attention import Scattered, scattered
from ebwm_cli.model.state_space import gaussian, uniform
from ebwm_cli.recipe.schema import ThinkSection
from ebwm_cli.sampler.denoising import denoise, level_of, signal_and_noise
from ebwm_cli.world.observing import Memory, ObservingWorld, best_of
from ebwm_cli.world.protocol import Judged, Prediction

JUDGED_TIMES = (0.3, 0.5, 0.7)
"""Times at which a candidate is noised to be judged."""
BLIND = 0.5
"""Training draws times from 0 to 1 + this, of which those past 1 are 1: nothing but noise, where denoising starts, and
where the one step is made that says the mean of what may come."""


class DiffusionWorld(ObservingWorld):
    """A `WorldModel` whose predictions are denoised noise; a candidate's score is its denoising error."""

    measures: tuple[str, ...] = ()
    score: str | None = "denoising error"

    def loss(
        self, states: Tensor, rng: torch.Generator, shared: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss of windows (B, T+1, ...), a scalar for `.backward()`; it measures nothing else."""
        context, target = states[:, :-1], states[:, 1:]
        memory = self.observe(self.blurred(context, rng))
        clean = self.space.point_of(target).detach()  # (B, T, E): noise is added to what embeddings are, not to learn
        time = (uniform(target.shape[:2], rng, clean) * (1 + BLIND)).clamp_max(1)  # (B, T)
        signal, noise = (each[..., None] for each in signal_and_noise(time, self.space.noise_shift))
        noisy = signal * clean + noise * self.space.unit * gaussian(clean.shape, rng, clean)
        return self._read_out(
            context, self._hidden(noisy, level_of(time, self.space.noise_shift), memory, None), target
        ), {}

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
        """Denoise `think.samples` draws of noise in `think.steps` steps for each of the last `positions` states, all
        against one Memory, and keep the lowest denoising error."""
        count, samples = positions or memory.length, think.samples
        where = memory.positions(count, samples)
        states = torch.cat([memory.states[:, -count:]] * samples, 1)  # (B, M*P, ...), sample by sample
        start, width = self.space.blank(states), states.shape[1]
        every = torch.arange(memory.length - width, memory.length, device=start.device) if where is None else where

        def denoiser(noisy: Tensor, level: Tensor, index: Tensor | None) -> Tensor:
            if index is None:
                return self._estimate(noisy, level, memory, where)
            items, layout = scattered(index // width, every[index % width])
            return self._estimate(noisy, level, memory.rows(items), layout)

        run = denoise(
            denoiser,
            start,
            gaussian(self.space.point_of(states).shape, rng, start),
            steps=think.steps,
            unit=self.space.unit,
            shift=self.space.noise_shift,
            geometry=self.space,
            stopping=self._stopping(think),
            record=record,
        )
        return best_of(run, samples, select=think.select, space=self.space, rng=rng)

    @torch.no_grad()
    def judge(self, candidate: Tensor, memory: Memory, start: Tensor | None = None) -> Tensor:
        """Denoising error (B, P) of candidates (B, P, D) as next states of the last P remembered ones: noised and
        denoised, how far off is the estimate, mean square per number over JUDGED_TIMES. `start` plays no part."""
        point, rng = self.space.point(candidate), torch.Generator().manual_seed(0)
        total = point.new_zeros(point.shape[:2])
        for each in JUDGED_TIMES:
            noisy, level = self._noised(point, each, rng)
            estimate = self.space.point(self._estimate(noisy, level, memory, None))
            total += ((estimate - point) / self.space.unit).square().mean(-1)
        return total / len(JUDGED_TIMES)

    def judging(self, memory: Memory, positions: int) -> Judged:
        """The same of many candidates, which share nothing but `memory`."""
        return lambda candidate, start=None, like=None: self.judge(candidate, memory, start)

    @torch.no_grad()
    def hidden(self, candidate: Tensor, memory: Memory) -> Tensor:
        """Final hidden states (B, P, W) of the last P positions while they hold `candidate` (B, P, D), noised to the
        middle of the schedule."""
        noisy, level = self._noised(self.space.point(candidate), 0.5, torch.Generator().manual_seed(0))
        return self._hidden(noisy, level, memory, None)

    def _noised(self, point: Tensor, time: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points (B, P, E) with noise, one draw for all batch items and positions, and its level (B, P)."""
        times = torch.full(point.shape[:2], time, device=point.device, dtype=point.dtype)
        signal, noise = (each[..., None] for each in signal_and_noise(times, self.space.noise_shift))
        eps = gaussian(point.shape[-1:], rng, point)
        return signal * point + noise * self.space.unit * eps, level_of(times, self.space.noise_shift)

    def _estimate(self, noisy: Tensor, level: Tensor, memory: Memory, where: Tensor | Scattered | None) -> Tensor:
        """The clean candidates (B, P, D) behind noisy points after the states `where` (None: the last P); scattered
        ones are (1, n, D)."""
        hidden = self._hidden(noisy, level, memory, where)
        if isinstance(where, Scattered):
            states = memory.states[where.item, where.positions][None]
        else:
            states = memory.states[:, -noisy.shape[1] :] if where is None else memory.states[:, where]
        return self.space.forecast(states, hidden)

    def _hidden(self, noisy: Tensor, level: Tensor, memory: Memory, where: Tensor | Scattered | None) -> Tensor:
        with self._precision(noisy):
            return self.network.denoise(self.space.embed_candidate(noisy), level, memory.kept, where)
