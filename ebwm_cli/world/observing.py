"""What all kinds of world share: reading true states into a Memory, once each, and keeping the best of several samples.

memory = observe(x_1 .. x_t); the oldest states are forgotten as soon as there are more than the context holds. Knows no
candidate and no loss.
"""

# B batch, T positions, D state size

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ebwm_cli.model.state_space import StateSpace, gaussian, uniform
from ebwm_cli.recipe.model import ModelSection
from ebwm_cli.recipe.schema import StateSpec, ThinkSection
from ebwm_cli.sampler.descent import Trajectory
from ebwm_cli.sampler.selection import pick, take
from ebwm_cli.sampler.stopping import EnergySettled, Still, Stopping
from ebwm_cli.world.gradient import RunningLoss
from ebwm_cli.world.protocol import Prediction

NUMBERS_AT_ONCE = 1 << 22
"""Numbers of candidates that are learned together: bounds memory where states are large."""


@dataclass(frozen=True)
class Memory:
    """Observed states (B, T, ...) and what the network keeps of them."""

    kept: Any
    states: Tensor
    starts: Tensor | None = None
    """The state space's own starts after them (B, T, D), where they were looked up when they were observed."""

    @property
    def length(self) -> int:
        """States remembered, T."""
        return self.states.shape[1]

    def last(self, count: int) -> Memory:
        """This memory with all but the newest `count` states forgotten."""
        starts = self.starts[:, -count:] if self.starts is not None else None
        return Memory(self.kept.last(count), self.states[:, -count:], starts)

    def rows(self, items: Tensor) -> Memory:
        """The memory of these batch items (n,), which may repeat."""
        starts = self.starts[items] if self.starts is not None else None
        return Memory(self.kept.rows(items), self.states[items], starts)

    def positions(self, count: int, samples: int) -> Tensor | None:
        """The remembered states that candidates follow, (M*P,), sample by sample, where there are several of each of
        the last `count`; None: one each."""
        if samples == 1:
            return None
        return torch.arange(self.length - count, self.length, device=self.states.device).repeat(samples)


def best_of(
    run: Trajectory,
    samples: int,
    origin: Tensor | None = None,
    *,
    select: str,
    space: StateSpace,
    rng: torch.Generator,
    bare: Tensor | None = None,
) -> Prediction:
    """What a run of `samples` candidates for each position (B, M*P, ...), sample by sample, arrived at: of each
    position the one that `select` says, or the mean of all, whose energies are the mean ones. `bare` (B, M*P, K+1) are
    the energies it went by, where those of `run` are levelled: by them it is chosen, as rounding is finest there."""

    def by_position(x: Tensor) -> Tensor:  # (B, M*P, ...) -> (B, P, M, ...)
        return x.unflatten(1, (samples, -1)).transpose(1, 2)

    went_by = run.energies if bare is None else bare

    def keep(index: Tensor, items: Tensor | None = None) -> Prediction:
        def every(x: Tensor) -> Tensor:  # (n, P, M, ...)
            return by_position(x) if items is None else by_position(x)[items]

        energies, fallen = every(run.energies), every(went_by)
        return Prediction(
            state=take(every(run.final), index),
            start=take(every(run.start), index),
            energies=take(energies, index),
            moves=take(every(run.moves), index),
            steps_used=take(every(run.steps_used), index),
            sample_states=every(run.final),
            sample_energies=energies[..., -1],
            sample_gaps=fallen[..., 0] - fallen[..., -1],
            looks=every(run.looks).sum(2),
            tries=every(run.tries).sum(2),
            path=take(every(run.path), index) if run.path is not None else None,
            origin=take(every(origin), index) if origin is not None else None,
            bare_energies=take(every(bare), index) if bare is not None else None,
            keep=keep,
        )

    energies = by_position(run.energies)  # (B, P, M, K+1)
    prediction = keep(pick(select, by_position(went_by), rng))
    if select != "mean" or samples == 1:
        return prediction
    state, path = space.average(prediction.sample_states), None
    if run.path is not None:
        path = torch.stack([space.average(each) for each in by_position(run.path).unbind(3)], 2)
    means = by_position(bare).mean(2) if bare is not None else None
    return replace(prediction, state=state, energies=energies.mean(2), bare_energies=means, path=path)


class ObservingWorld(nn.Module, ABC):
    """A network that observes, the space its states live in, and what the recipe says of reading them: what is common
    to every `WorldModel`."""

    measures: tuple[str, ...]
    score: str | None

    def __init__(self, network: nn.Module, space: Any, model: ModelSection, spec: StateSpec) -> None:
        super().__init__()
        self.network: Any = network
        self.space = space  # a StateSpace
        self.spec = spec
        self._context_noise = model.context_noise
        self._autocast = False

    def set_precision(self, precision: str) -> None:
        """`fp32` or `bf16`, of the network; candidates, energies and losses stay fp32."""
        self._autocast = precision == "bf16"

    def observe(self, states: Tensor, memory: Memory | None = None) -> Memory:
        """Remember states (B, T, ...) after those in `memory`. Where all together are more than the context holds, the
        oldest are forgotten first, so that the first of many new states see less than if they came one by one. What
        comes at once is kept, however much it is."""
        if memory is not None:
            memory = memory.last(max(self.spec.context - states.shape[1], 1))
        first = memory.states[:, -1:] if memory else states[:, :1]  # the very first state has not moved
        before = torch.cat([first, states[:, :-1]], dim=1)
        with self._precision(states):
            kept = self.network.observe(self.space.embed_observed(states, before), memory.kept if memory else None)
        return Memory(kept, torch.cat([memory.states, states], dim=1) if memory else states)

    def learned(self, measures: Mapping[str, float]) -> None:
        """Take note of what an update that moved the weights measured, all its windows together."""

    def settling_drop(self, think: ThinkSection) -> Tensor | None:
        """None: no typical drop is kept."""
        return None

    def kept_tensors(self) -> dict[str, Tensor]:
        """What training keeps beside the weights, by name: nothing."""
        return {}

    def load_kept(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on with what `kept_tensors()` gave."""

    @abstractmethod
    def loss(
        self, states: Tensor, rng: torch.Generator, shared: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `WorldModel`."""

    @abstractmethod
    def predict(
        self,
        memory: Memory,
        think: ThinkSection,
        rng: torch.Generator,
        *,
        positions: int | None = None,
        record: bool = False,
    ) -> Prediction:
        """See `WorldModel`."""

    @abstractmethod
    def hidden(self, candidate: Tensor, memory: Memory) -> Tensor:
        """See `WorldModel`."""

    def _stopping(self, think: ThinkSection) -> Stopping | None:
        """The rule that `think` asks for."""
        if think.stop == "energy":
            return EnergySettled(think.tolerance, think.patience, self.settling_drop(think))
        return Still(think.tolerance, think.patience) if think.stop == "still" else None

    def blurred(self, context: Tensor, rng: torch.Generator) -> Tensor:
        """`context` (B, T, ...) as training reads it: with noise of a level that each window draws for itself."""
        if not self._context_noise:
            return context
        level = self._context_noise * uniform((len(context), 1, 1), rng, context)  # still scenes are seen too
        return context + level * gaussian(context.shape, rng, context)

    def _read_out(self, context: Tensor, hidden: Tensor, target: Tensor) -> Tensor:
        """Mean distance of what the head reads from hidden states (B, T, W), after `context`, to `target` (B, T, ...);
        of so many windows at a time as memory allows."""

        def distance(context: Tensor, hidden: Tensor, target: Tensor) -> Tensor:
            return self.space.distance(self.space.forecast(context, hidden), target).mean()

        at_once = self._windows_at_once(target.shape[1])
        if at_once >= len(target):
            return distance(context, hidden, target)
        running = RunningLoss()
        running.watch(self.space.learned_parameters())
        parts = zip(context.split(at_once), running.cut(hidden).split(at_once), target.split(at_once), strict=True)
        for before, said, after in parts:
            running.add(distance(before, said, after) * (len(before) / len(target)))
        return running.total()

    def _precision(self, like: Tensor) -> torch.autocast:
        return torch.autocast(like.device.type, torch.bfloat16, enabled=self._autocast)

    def _windows_at_once(self, context: int) -> int:
        """Windows of `context` predictions whose candidates are learned together."""
        return max(1, NUMBERS_AT_ONCE // (context * self.spec.state_dim))

    def _positions_at_once(self, context: int) -> int:
        """And where one window is too many, how many of its positions."""
        return min(context, max(1, NUMBERS_AT_ONCE // self.spec.state_dim))
