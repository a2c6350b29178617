"""The energy-based world model: predicts by moving a candidate downhill on a learned energy.

loss = mean over trained descent steps of distance(y_k, x_{t+1}), y_k <- y_{k-1} - alpha * dE/dy - lambda * (y - y0)
(EBWM, arXiv 2406.08862; EBT, arXiv 2507.02092). Energies are never supervised: the gradient of the loss passes through
the descent. Knows no optimizer, file or terminal.
"""

# B batch, T positions, P predicted positions, D state size, W width, M samples, K descent steps

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ebwm_cli.model.ebt import EnergyTransformer
from ebwm_cli.model.state_space import gaussian
from ebwm_cli.model.trunk import Memory as TrunkMemory
from ebwm_cli.recipe.model import EbtSection
from ebwm_cli.recipe.schema import StateSpec, ThinkSection
from ebwm_cli.sampler.descent import EnergyFn, Move, descend, total_energy
from ebwm_cli.sampler.schedule import draw_count, draw_step_scale
from ebwm_cli.sampler.stopping import EnergySettled
from ebwm_cli.world.gradient import RunningLoss
from ebwm_cli.world.observing import Memory, ObservingWorld, best_of
from ebwm_cli.world.protocol import Prediction

SMALLEST_STEP_SIZE = 1e-4


class EnergyWorld(ObservingWorld):
    """A `WorldModel` whose predictions are descents on `network`'s energy in `space`."""

    measures = ("energy_start", "energy_final", "step_size")
    score: str | None = "energy"

    def __init__(self, network: EnergyTransformer, space: Any, model: EbtSection, spec: StateSpec) -> None:
        super().__init__(network, space, model, spec)
        self.model = model
        self.alpha = nn.Parameter(torch.tensor(model.descent.step_size), requires_grad=model.descent.learn_step_size)

    @property
    def step_size(self) -> Tensor:
        """alpha as descent uses it, a 0-dim tensor: never below SMALLEST_STEP_SIZE."""
        return self.alpha.clamp_min(SMALLEST_STEP_SIZE)

    def relative_rates(self) -> dict[str, float]:
        """Parameters whose learning rate is a multiple of their own value: alpha's is 3 * alpha * lr (EBT)."""
        return {"alpha": self.model.descent.step_size_lr_scale}

    # ------------------------------------------------------------------------------------------ learn

    def loss(self, states: Tensor, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss of windows (B, T+1, ...): a scalar for `.backward()`, and 0-dim tensors energy_start,
        energy_final (before the last move; both 0 where nothing descends) and step_size.

        The context is run once; each trained descent step is differentiated as soon as it is made, the gradients of
        keys and values add up, and one backward pass through the context ends it. Candidates descend as many windows
        at once as NUMBERS_AT_ONCE allows, and where one is too many, as many positions of it.
        """
        rules, context, target = self.model.descent, states[:, :-1], states[:, 1:]
        # Drawn first, so that parts of one batch, each given the same generator, agree on them.
        free, steps = draw_count(*rules.free_steps, rng), draw_count(*rules.steps_range, rng)
        memory = self.observe(self._blurred(context, rng))
        running = RunningLoss()
        running.watch([*self.network.parameters(), *self.space.learned_parameters()])
        step_size = running.cut(self.step_size)
        length = target.shape[1]
        windows, positions = self._windows_at_once(length), self._positions_at_once(length)
        parts = zip(
            context.split(windows), target.split(windows), self._cut(memory.kept, windows, running), strict=True
        )
        energies = torch.zeros(2, device=states.device)
        for before, after, trunk in parts:
            for begin in range(0, length, positions):
                at = slice(begin, min(begin + positions, length))
                share = len(before) / len(states) * (at.stop - begin) / length
                past = trunk.until(at.stop) if at.stop < length else trunk
                energies += share * self._learn(
                    before[:, at], after[:, at], past, free, steps, step_size, share, running, rng
                )
        return running.total(), {
            "energy_start": energies[0],
            "energy_final": energies[1],
            "step_size": step_size.detach(),
        }

    def _learn(
        self,
        context: Tensor,
        target: Tensor,
        trunk: TrunkMemory,
        free: int,
        steps: int,
        step_size: Tensor,
        share: float,
        running: RunningLoss,
        rng: torch.Generator,
    ) -> Tensor:
        """Add `share` of the mean loss of some windows, context and target (B', T', ...) being the last T' states that
        `trunk` remembers and those after them, to `running`; returns their mean energies at the start and before the
        last move, (2,)."""
        rules = self.model.descent
        origin = self.space.start(context, trunk.hidden[:, -context.shape[1] :], rng)  # (B', T', D)
        if self.space.forecasts:  # the forecast has a loss of its own
            running.add(share * self.space.distance(origin, target).mean())
            origin = origin.detach()
        if not steps:
            return torch.zeros(2, device=target.device)
        start = origin
        if self.model.start_noise:
            start = start + self.model.start_noise * gaussian(start.shape, rng, start)
        scale: Tensor | float = 1.0
        if rules.step_size_jitter > 1:
            scale = draw_step_scale((*start.shape[:2], 1), rules.step_size_jitter, rng, start.device)

        def learn(move: Move) -> None:
            running.add(share * (self.space.distance(move.candidate, target).mean() / steps))

        shared = {
            "step_scale": scale,
            "anchor": rules.anchor,
            "origin": origin,
            "noise": rules.langevin_noise,
            "rng": rng,
            "gradient_clamp": rules.gradient_clamp,
            "measure": False,
            "geometry": self.space,
        }
        landscapes = self._landscapes(trunk)
        settled = descend(landscapes, start, steps=free, step_size=step_size.detach(), **shared)
        trained = descend(
            landscapes,
            settled.final,
            steps=steps,
            step_size=step_size,
            first_step=free,
            create_graph=torch.is_grad_enabled(),
            on_move=learn,
            **shared,
        )
        first = settled if free else trained
        return torch.stack([first.energies[..., 0].mean(), trained.energies[..., -1].mean()])

    def _cut(self, trunk: TrunkMemory, windows: int, running: RunningLoss) -> list[TrunkMemory]:
        """`trunk`, `windows` at a time, with leaves whose gradients `running` collects."""

        def parts(x: Tensor) -> list[Tensor]:
            return [running.cut(part) for part in x.split(windows)]

        keys, values = [parts(key) for key in trunk.keys], [parts(value) for value in trunk.values]
        speaks = self.space.forecasts or self.network.compatibility
        hidden = parts(trunk.hidden) if speaks else [part.detach() for part in trunk.hidden.split(windows)]
        layers = zip(zip(*keys, strict=True), zip(*values, strict=True), hidden, strict=True)
        return [TrunkMemory(key, value, said, trunk.position) for key, value, said in layers]

    # ------------------------------------------------------------------------------------------ think

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
        """Descend `think.samples` times for each of the last `positions` states, all against one Memory, and keep the
        lowest energy. The first sample starts where training does, the others `think.start_noise` away from it."""
        count, samples = positions or memory.length, think.samples
        where = memory.positions(count, samples)
        states, hidden = memory.states[:, -count:], memory.kept.hidden[:, -count:]
        # (B, M*P, D), sample by sample
        origin = self.space.start(torch.cat([states] * samples, 1), torch.cat([hidden] * samples, 1), rng)
        start = origin
        if samples > 1:
            start = origin.clone()
            others = start[:, count:]
            others += think.start_noise * gaussian(others.shape, rng, others)
        rules = self.model.descent
        run = descend(
            self._landscapes(memory.kept, where),
            start,
            steps=think.steps,
            step_size=self.step_size,
            anchor=rules.anchor,
            origin=origin,
            gradient_clamp=rules.gradient_clamp,
            stopping=EnergySettled(think.tolerance) if think.stop == "energy" else None,
            record=record,
            geometry=self.space,
        )
        return best_of(run, samples, origin)

    @torch.no_grad()
    def hidden(self, candidate: Tensor, memory: Memory) -> Tensor:
        """Final hidden states (B, P, W) of the last P positions while they hold `candidate` (B, P, D)."""
        stream = self.space.embed_candidate(self.space.point(candidate))
        return self.network.hidden(stream, memory.kept, self.model.landscapes - 1)

    @torch.no_grad()
    def judge(self, candidate: Tensor, memory: Memory, start: Tensor | None = None) -> Tensor:
        """Total energy (B, P) of candidates (B, P, D) as next states of the last P remembered ones. `start` is what
        the anchor pulls to, by default the state space's own start."""
        origin = start
        if origin is None:
            count, rng = candidate.shape[1], torch.Generator().manual_seed(0)
            origin = self.space.start(memory.states[:, -count:], memory.kept.hidden[:, -count:], rng)
        return total_energy(
            self._landscapes(memory.kept),
            candidate,
            origin,
            step=self.model.landscapes - 1,
            step_size=self.step_size,
            anchor=self.model.descent.anchor,
            geometry=self.space,
        )

    # ------------------------------------------------------------------------------------------ seams

    def _landscapes(self, trunk: TrunkMemory, positions: Tensor | None = None) -> list[EnergyFn]:
        """The sampler's view of the network, one energy function per landscape: points in, energies out."""

        def energy(point: Tensor, landscape: int) -> Tensor:
            with self._precision(point):
                return self.network.energy(self.space.embed_candidate(point), trunk, landscape, positions)

        return [partial(energy, landscape=landscape) for landscape in range(self.network.num_landscapes)]
