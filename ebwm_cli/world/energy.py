"""The energy-based world model: predicts by moving a candidate downhill on a learned energy.

loss = mean over trained descent steps of distance(y_k, x_{t+1}), y_k <- y_{k-1} - alpha * dE/dy - lambda * (y - y0)
(EBWM, arXiv 2406.08862; EBT, arXiv 2507.02092). Energies are supervised only where the recipe asks for it: the gradient
of the loss passes through the descent. Knows no optimizer, file or terminal.
"""

# B batch, T positions, P predicted positions, D state size, W width, M samples, K descent steps

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ebwm_cli.model.attention import Scattered, scattered
from ebwm_cli.model.ebt import EnergyTransformer
from ebwm_cli.model.level import MOVES, Measure
from ebwm_cli.model.state_space import gaussian
from ebwm_cli.model.trunk import Memory as TrunkMemory
from ebwm_cli.recipe.model import EbtSection
from ebwm_cli.recipe.schema import StateSpec, ThinkSection
from ebwm_cli.sampler.curvature import EVERY, StepControl, largest_curvature, stable_scale
from ebwm_cli.sampler.descent import EnergyFn, Trajectory, descend, total_energy
from ebwm_cli.sampler.replay import ReplayBuffer
from ebwm_cli.sampler.schedule import draw_count
from ebwm_cli.sampler.settling import settle
from ebwm_cli.world.costs import first_moves_are_made
from ebwm_cli.world.gradient import RunningLoss
from ebwm_cli.world.learning import Lesson, in_parts, learn
from ebwm_cli.world.observing import Memory, ObservingWorld, best_of
from ebwm_cli.world.protocol import Judged, Prediction
from ebwm_cli.world.signs import first_moves_counted, signs_after

SMALLEST_STEP_SIZE = 1e-4
DROP_DECAY = 0.99
"""Of the mean drop of energy, per update."""


class EnergyWorld(ObservingWorld):
    """A `WorldModel` whose predictions are descents on `network`'s energy in `space`."""

    typical_drop: Tensor
    curvature: Tensor
    pull: Tensor
    measures = ("energy_start", "energy_final", "step_size")
    score: str | None = "energy"

    def __init__(self, network: EnergyTransformer, space: Any, model: EbtSection, spec: StateSpec) -> None:
        super().__init__(network, space, model, spec)
        self.model = model
        rules = model.descent
        self.alpha = nn.Parameter(torch.tensor(rules.step_size), requires_grad=rules.step_control == "learned")
        self.replay = ReplayBuffer(rules.replay_size) if rules.replay else None
        self.register_buffer("typical_drop", torch.zeros(()))  # of total energy in training, a running mean
        self.register_buffer("curvature", torch.zeros(()))  # the largest one found last, in training
        if rules.anchor_fit:
            self.register_buffer("pull", torch.tensor(rules.anchor))  # lambda, where nothing is trained

    @property
    def step_size(self) -> Tensor:
        """alpha as descent uses it, a 0-dim tensor: never below SMALLEST_STEP_SIZE."""
        return self.alpha.clamp_min(SMALLEST_STEP_SIZE)

    @property
    def anchor(self) -> float:
        """lambda as thinking uses it; training goes by the recipe's."""
        return float(self.pull) if self.model.descent.anchor_fit else self.model.descent.anchor

    def set_anchor(self, anchor: float) -> None:
        """From now on thinking uses this lambda. Only where the recipe has it fitted."""
        self.pull.fill_(anchor)

    def relative_rates(self) -> dict[str, float]:
        """Parameters whose learning rate is a multiple of their own value: alpha's is 3 * alpha * lr (EBT)."""
        return {"alpha": self.model.descent.step_size_lr_scale}

    def kept_tensors(self) -> dict[str, Tensor]:
        """The replay buffer."""
        return self.replay.tensors() if self.replay is not None else {}

    def load_kept(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on with the replay buffer that `kept_tensors()` gave."""
        if self.replay is not None:
            self.replay.load(tensors, self.alpha.device)

    def observe(self, states: Tensor, memory: Memory | None = None) -> Memory:
        """As `ObservingWorld` does. Where descents start from a forecast of latents, it is read here, once, for them
        and for energies and clues; one of tokens, a number for each of the vocabulary, is read where it is needed."""
        longer = super().observe(states, memory)
        if torch.is_grad_enabled() or not self.space.forecasts or self.space.in_nats:
            return longer
        new = states.shape[1]
        starts = self.space.forecast(states, longer.kept.hidden[:, -new:])
        if memory is not None:
            starts = torch.cat([self.own_start(memory, longer.length - new), starts], dim=1)
        return replace(longer, starts=starts)

    # ------------------------------------------------------------------------------------------ learn

    def loss(
        self, states: Tensor, rng: torch.Generator, shared: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss of windows (B, T+1, ...): a scalar for `.backward()`, and 0-dim tensors energy_start,
        energy_final (before the last move; both 0 where nothing descends) and step_size.

        The context is run once; each trained descent step is differentiated as soon as it is made, the gradients of
        keys and values add up, and one backward pass through the context ends it. Candidates descend as many windows
        at once as NUMBERS_AT_ONCE allows, and where one is too many, as many positions of it.
        """
        rules, training = self.model.descent, torch.is_grad_enabled()
        alike = shared or rng  # parts of one batch agree on what is drawn from it
        free, steps = draw_count(*rules.free_steps, alike), draw_count(*rules.steps_range, alike)
        again = rules.step_control == "spectral" and (draw_count(1, EVERY, alike) == 1 or not self.curvature)
        states, held = self._replayed(states) if training else (states, None)
        context, target = states[:, :-1], states[:, 1:]
        memory = self.observe(self.blurred(context, rng))
        if again and training:
            self._look_up_curvature(context, memory, rng)
        running = RunningLoss()
        running.watch([*self.network.parameters(), *self.space.learned_parameters()])
        step_size = running.cut(self.step_size)
        length = target.shape[1]
        windows, positions = self._windows_at_once(length), self._positions_at_once(length)
        energies, finals = torch.zeros(2, device=states.device), []
        for number, trunk in enumerate(self._cut(memory.kept, windows, running)):
            some = slice(number * windows, (number + 1) * windows)
            for begin in range(0, length, positions):
                at = slice(begin, min(begin + positions, length))
                lesson = Lesson(
                    context=context[some, at],
                    target=target[some, at],
                    trunk=trunk.until(at.stop) if at.stop < length else trunk,
                    held=None if held is None else held[some, at],
                    free=free,
                    steps=steps,
                    step_size=step_size,
                    share=len(target[some]) / len(states) * (at.stop - begin) / length,
                )
                found, final = learn(self, lesson, running, rng)
                energies += lesson.share * found
                if self.replay is not None and training:
                    finals.append(final)
        if self.replay is not None and finals:
            cuts = -(-length // positions)
            rows = [torch.cat(finals[first : first + cuts], 1) for first in range(0, len(finals), cuts)]
            self.replay.push(states, torch.cat(rows))
        return running.total(), {
            "energy_start": energies[0],
            "energy_final": energies[1],
            "step_size": step_size.detach(),
        }

    def learned(self, measures: Mapping[str, float]) -> None:
        """Keep a running mean of how far energies fall; not of updates with one move, whose fall is not known."""
        drop = measures["energy_start"] - measures["energy_final"]
        if drop:  # on the device, which is not waited for
            known = self.typical_drop
            known.copy_(torch.where(known == 0, drop, DROP_DECAY * known + (1 - DROP_DECAY) * drop))

    def settling_drop(self, think: ThinkSection) -> Tensor | None:
        """The mean one in training, where `think` asks for it."""
        return self.typical_drop if think.drop == "typical" else None

    def training_scale(self) -> float | Tensor:
        """What moves are shortened by in training: what the largest curvature found last bears."""
        rules = self.model.descent
        if rules.step_control != "spectral":
            return 1.0
        step_size = self.step_size.detach()
        return stable_scale(self.curvature, step_size=step_size, anchor=rules.anchor, fraction=rules.spectral_fraction)

    def _replayed(self, states: Tensor) -> tuple[Tensor, Tensor | None]:
        """Windows (B, T+1, ...) of which the first ones, at least one, are from the replay buffer, and the candidates
        of those (B, T, D), nan for the others; None where nothing is held yet."""
        if self.replay is None or not len(self.replay):
            return states, None
        count = min(max(int(self.model.descent.replay * len(states)), 1), len(self.replay))
        windows, candidates = self.replay.draw(count)
        rest = candidates.new_full((len(states) - count, *candidates.shape[1:]), torch.nan)
        return torch.cat([windows.to(states), states[count:]]), torch.cat([candidates, rest])

    @torch.no_grad()
    def _look_up_curvature(self, context: Tensor, memory: Memory, rng: torch.Generator) -> None:
        """The largest curvature at the starts of as many windows as fit in memory."""
        some = slice(0, self._windows_at_once(context.shape[1]))
        trunk = self._cut(memory.kept, some.stop, RunningLoss())[0]
        start = self.space.start(context[some], trunk.hidden, rng).detach()
        direction = torch.randn(start.shape, generator=rng, device=rng.device).to(start)
        found, _ = largest_curvature(self.landscapes(trunk)[0], start, direction, geometry=self.space)
        self.curvature.copy_(found.max())

    def _cut(self, trunk: TrunkMemory, windows: int, running: RunningLoss) -> list[TrunkMemory]:
        return in_parts(trunk, windows, running, speaks=self.space.forecasts or self.network.compatibility)

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
        run, origin = self.descended(memory, think, rng, count, record)
        bare = None
        if self.network.level is not None:
            bare = run.energies
            made = first_moves_are_made(self.model, think) and self.network.level.cools_by(think.cooling)
            measure = self.measure(memory, count, run if made else None).repeated(samples)
            run = replace(run, energies=measure(bare, self.space.point(run.final)))
            run = run if made else first_moves_counted(run, count)
        return best_of(run, samples, origin, select=think.select, space=self.space, rng=rng, bare=bare)

    def descended(
        self, memory: Memory, think: ThinkSection, rng: torch.Generator, count: int | None = None, record: bool = False
    ) -> tuple[Trajectory, Tensor]:
        """What all those descents after the last `count` states (None: all) were, sample by sample (B, M*P, ...), their
        energies not yet levelled; and what the anchor pulled to (B, M*P, D)."""
        count, samples = count or memory.length, think.samples
        where = memory.positions(count, samples)
        states, hidden = memory.states[:, -count:], memory.kept.hidden[:, -count:]
        if memory.starts is not None:
            origin = torch.cat([memory.starts[:, -count:]] * samples, 1)
        else:
            origin = self.space.start(torch.cat([states] * samples, 1), torch.cat([hidden] * samples, 1), rng)
        start = origin
        if samples > 1:
            start = origin.clone()
            others = start[:, count:]
            others += think.start_noise * gaussian(others.shape, rng, others)
        return self._run(think, memory, where, start, origin, rng, record), origin

    def measure(self, memory: Memory, count: int, run: Trajectory | None = None) -> Measure:
        """What energies after the last `count` states are measured in. A `run` that began so spares first moves."""
        assert self.network.level is not None
        return self.network.level(signs_after(self, memory, count, float(self.network.level.cooling), run))

    def own_start(self, memory: Memory, count: int) -> Tensor:
        """The state space's own start (B, P, D) after the last `count` states, the same one whenever it is asked for;
        where starts are noise, it lies otherwise for another `count`."""
        if memory.starts is not None:
            return memory.starts[:, -count:]
        rng = torch.Generator().manual_seed(0)
        return self.space.start(memory.states[:, -count:], memory.kept.hidden[:, -count:], rng)

    def _run(
        self,
        think: ThinkSection,
        memory: Memory,
        where: Tensor | None,
        start: Tensor,
        origin: Tensor,
        rng: torch.Generator,
        record: bool,
    ) -> Trajectory:
        """Descend from `start` (B, M*P, D) after the states `where` (M*P,), as `think` says."""
        rules, width, anchor = self.model.descent, start.shape[1], self.anchor
        shared: dict[str, Any] = {
            "steps": think.steps,
            "step_size": self.step_size,
            "anchor": anchor,
            "origin": origin,
            "cooling": think.cooling,
            "gradient_clamp": rules.gradient_clamp,
            "record": record,
            "keep_after": MOVES if self.network.level is not None else 0,
            "geometry": self.space,
        }
        stopping, control = self._stopping(think), None
        if rules.step_control == "spectral":
            fraction = rules.spectral_fraction
            control = StepControl(step_size=self.step_size, anchor=anchor, fraction=fraction, rng=rng)
        if stopping is None and control is None and not think.backtrack:
            return descend(self.landscapes(memory.kept, where), start, **shared)
        first = memory.length - width
        places = torch.arange(first, memory.length, device=start.device) if where is None else where

        def narrow(index: Tensor) -> list[EnergyFn]:
            items, layout = scattered(index // width, places[index % width])
            return self.landscapes(memory.kept if len(items) == len(start) else memory.kept.rows(items), layout)

        return settle(
            self.landscapes(memory.kept, where),
            start,
            stopping=stopping,
            backtrack=think.backtrack,
            control=control,
            narrow=narrow,
            **shared,
        )

    @torch.no_grad()
    def hidden(self, candidate: Tensor, memory: Memory) -> Tensor:
        """Final hidden states (B, P, W) of the last P positions while they hold `candidate` (B, P, D)."""
        point = self.space.point(candidate)
        with self._precision(point):
            return self.network.hidden(self.space.embed_candidate(point), memory.kept, self.model.landscapes - 1)

    @torch.no_grad()
    def judge(self, candidate: Tensor, memory: Memory, start: Tensor | None = None) -> Tensor:
        """Total energy (B, P) of candidates (B, P, D) as next states of the last P remembered ones, levelled where the
        recipe has that. `start` is what the anchor pulls to, by default the state space's own start."""
        return self.judging(memory, candidate.shape[1])(candidate, start)

    def judging(self, memory: Memory, positions: int) -> Judged:
        """The same of many candidates: first moves, which energies are measured by, are looked up once."""
        if self.network.level is None:
            return lambda candidate, start=None, like=None: self.total(candidate, memory, start)
        measure = self.measure(memory, positions)

        @torch.no_grad()
        def judged(candidate: Tensor, start: Tensor | None = None, like: Tensor | None = None) -> Tensor:
            energy, point = self.total(candidate, memory, start), self.space.point(candidate if like is None else like)
            return measure(energy[..., None], point)[..., 0]

        return judged

    @torch.no_grad()
    def total(self, candidate: Tensor, memory: Memory, start: Tensor | None = None) -> Tensor:
        """The same as descents go by it, not levelled."""
        return total_energy(
            self.landscapes(memory.kept),
            candidate,
            self.own_start(memory, candidate.shape[1]) if start is None else start,
            step=self.model.landscapes - 1,
            step_size=self.step_size,
            anchor=self.anchor,
            geometry=self.space,
        )

    def landscapes(self, trunk: TrunkMemory, positions: Tensor | Scattered | None = None) -> list[EnergyFn]:
        """The sampler's view of the network, one energy function per landscape: points in, energies out."""

        def energy(point: Tensor, landscape: int) -> Tensor:
            with self._precision(point):
                return self.network.energy(self.space.embed_candidate(point), trunk, landscape, positions)

        return [partial(energy, landscape=landscape) for landscape in range(self.network.num_landscapes)]
